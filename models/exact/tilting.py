"""Gaussian mixtures tilted by a linear reward, in closed form: what steering should sample.

``p(x) exp(scale a^T x) / Z`` of a mixture is a mixture of the same covariances.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .mixture import GaussianMixture


class Tilted(NamedTuple):
    """A tilted mixture, and the logarithm of its normaliser."""

    mixture: GaussianMixture
    log_normaliser: Float[Array, ""]


def tilted(mixture: GaussianMixture, direction: Float[ArrayLike, " dim"], scale: float) -> Tilted:
    """Return ``p(x) exp(scale direction^T x) / Z``.

    Its weights are ``w_k exp(scale a^T m_k + scale^2 a^T C_k a / 2) / Z``, and its means
    ``m_k + scale C_k a``.
    """
    tilt = scale * jnp.asarray(direction, mixture.means.dtype)
    vectors, values = mixture.eigenvectors, mixture.eigenvalues
    moves = jnp.einsum("kde,ke,kfe,f->kd", vectors, values, vectors, tilt)
    log_weights = mixture.log_weights + (mixture.means + moves / 2) @ tilt
    total = jax.nn.logsumexp(log_weights)
    leaves = (log_weights - total, mixture.means + moves, values, vectors)
    return Tilted(GaussianMixture.tree_unflatten(None, leaves), total)


def soft_value(
    mixture: GaussianMixture,
    x: Float[Array, "batch dim"],
    sigma: Float[ArrayLike, ""] | float,
    direction: Float[ArrayLike, " dim"],
    scale: float,
) -> Float[Array, " batch"]:
    """Return ``log E[exp(scale direction^T x0) | x] / scale`` at a noise level above 0.

    The tilted mixture with noise is ``Z p'(x; sigma) = p(x; sigma) E[exp(scale a^T x0) | x]``, so
    that the value is a difference of two log-densities.
    """
    other = tilted(mixture, direction, scale)
    ahead = other.mixture.log_density(x, sigma) - mixture.log_density(x, sigma)
    return (ahead + other.log_normaliser) / scale
