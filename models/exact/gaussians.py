"""A Gaussian with independent coordinates: its denoiser, its flow and its guided flow.

The probability-flow ODE ``dx/dsigma = (x - D) / sigma`` is linear there, so that its maps, which
few-step students learn, have closed forms, with guidance too.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ...core.pytrees import pytree
from .flow import ExactFlow, columns

# Panels and nodes of the quadrature in ln(var + sigma^2): 1e-12 of the integral over the noise
# levels of any published schedule.
PANELS, ORDER = 24, 8


@pytree
class Gaussian(ExactFlow):
    """``N(mean, std^2)`` on every coordinate, numbers or arrays that broadcast against samples.

    Attributes:
        mean: of the data.
        std: of the data, 0 or more.
    """

    mean: Float[ArrayLike, "..."]
    std: Float[ArrayLike, "..."]

    def denoise(
        self, x: Float[ArrayLike, " batch *shape"], sigma: Float[ArrayLike, "..."]
    ) -> Float[Array, " batch *shape"]:
        """Return ``E[x0 | x]``.

        Args:
            x: data plus noise.
            sigma: standard deviation of the noise, a scalar or ``[batch]``.
        """
        x, sigma = columns(x, sigma)
        mean, variance = jnp.asarray(self.mean), jnp.square(self.std)
        return mean + (x - mean) * variance / (variance + sigma**2)

    def flow_map(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, "..."],
        to: Float[ArrayLike, "..."],
    ) -> Float[Array, " batch *shape"]:
        """Return where the flow carries ``x`` of noise level ``sigma`` at the level ``to``.

        ``mean + (x - mean) sqrt((std^2 + to^2) / (std^2 + sigma^2))``.
        """
        x, sigma, to = columns(x, sigma, to)
        mean, variance = jnp.asarray(self.mean), jnp.square(self.std)
        ratio = (variance + to**2) / (variance + sigma**2)
        return mean + (x - mean) * jnp.sqrt(ratio)

    def guided_denoise(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, "..."],
        *,
        reference: "Gaussian",
        scale: Float[ArrayLike, "..."],
    ) -> Float[Array, " batch *shape"]:
        """Return ``D_ref + scale (D - D_ref)``.

        Args:
            x, sigma: as in `denoise`.
            reference: whose denoiser is the reference.
            scale: 1 is off, 0 is the reference; a scalar or ``[batch]``.
        """
        x, scale = columns(x, scale)
        main, other = self.denoise(x, sigma), reference.denoise(x, sigma)
        return other + scale * (main - other)

    def guided_flow_map(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, "..."],
        to: Float[ArrayLike, "..."],
        *,
        reference: "Gaussian",
        scale: Float[ArrayLike, "..."],
    ) -> Float[Array, " batch *shape"]:
        """Return the map of `guided_denoise`'s flow.

        With A the reference's variance, B this one's and m the distance of the means, the flow
        without m is ``h = (A + sigma^2)^((1 - scale)/2) (B + sigma^2)^(scale/2)``, and m adds
        ``-scale m h(to) int_sigma^to tau dtau / ((B + tau^2) h(tau))``, by Gauss-Legendre
        quadrature. Where A = B this moves the mean to ``scale m`` and changes nothing else.
        """
        x, sigma, to, scale = columns(x, sigma, to, scale)
        wide, narrow = jnp.square(reference.std), jnp.square(self.std)
        base = jnp.asarray(reference.mean)
        shift = jnp.asarray(self.mean) - base

        def log_growth(level, wide=wide, narrow=narrow, scale=scale):
            return (1 - scale) / 2 * jnp.log(wide + level**2) + scale / 2 * jnp.log(
                narrow + level**2
            )

        end = log_growth(to)
        moved = (x - base) * jnp.exp(end - log_growth(sigma))
        # In y = ln(B + tau^2), where tau dtau / (B + tau^2) is dy / 2.
        begin, stop = jnp.log(narrow + sigma**2), jnp.log(narrow + to**2)
        shares, weights = _panels(x.dtype)
        every = begin[..., None] + (stop - begin)[..., None] * shares
        level = jnp.sqrt(jnp.maximum(jnp.exp(every) - jnp.asarray(narrow)[..., None], 0))
        spread = (jnp.asarray(one)[..., None] for one in (wide, narrow, scale))
        growth = end[..., None] - log_growth(level, *spread)
        integral = (stop - begin) / 2 * jnp.sum(weights * jnp.exp(growth), axis=-1)
        return base + moved - scale * shift * integral


def gaussian(mean: Float[ArrayLike, "..."] = 0.0, std: Float[ArrayLike, "..."] = 1.0) -> Gaussian:
    """Return a Gaussian with its exact denoiser, flow map, consistency map and guided flow map.

    Args:
        mean, std: numbers, or arrays that broadcast against samples; one std a coordinate is a
            Gaussian of any covariance in its eigenbasis. Traced ones are not checked.

    Raises:
        ValueError: a std below 0, or a number that is not finite.
    """
    known = {"mean": mean, "std": std}
    known = {name: one for name, one in known.items() if not isinstance(one, jax.core.Tracer)}
    for name, value in known.items():
        if not np.all(np.isfinite(value)):
            raise ValueError(f"models.exact.gaussian: {name} must be finite, got {value}")
    if np.any(np.asarray(known.get("std", 0)) < 0):
        raise ValueError(f"models.exact.gaussian: std is 0 or more, got {std}")
    return Gaussian(mean, std)


def _panels(dtype) -> tuple[Array, Array]:
    """Return the nodes and weights of composite Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(ORDER)
    begins = np.arange(PANELS)[:, None]
    shares = (begins + (nodes + 1) / 2) / PANELS
    return (
        jnp.asarray(shares.ravel(), dtype),
        jnp.asarray(np.tile(weights / 2 / PANELS, PANELS), dtype),
    )
