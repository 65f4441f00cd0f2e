"""DiT's loss: the error of the predicted noise, and a bound that trains the learned variance.

A network with twice the sample's channels predicts the noise and, in the second half, a number v
that interpolates the logarithm of the reverse step's variance between its two limits (Nichol and
Dhariwal, arXiv 2102.09672, eq. 15 and 16).
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ..noise.corruption import Corruption, Outcome, outcome
from ..noise.levels import WHOLE, Levels
from ..noise.weightings import Weighting, uniform
from .denoising import weighted_error
from .loss import MAIN, Batch, Roles, over_elements

# Pixels are 256 values in [-1, 1]: half the width of one.
HALF_BIN = 1 / 255
EDGE = 0.999


class Steps(NamedTuple):
    """Constants of the reverse steps of a table, one entry a level, float32.

    Attributes:
        log_largest: log of beta, the step's variance for data of variance 1.
        log_smallest: log of the posterior's variance given the data; at the first level, where
            that is 0, of the second.
        data: factor of x0 in the posterior's mean.
    """

    log_largest: np.ndarray
    log_smallest: np.ndarray
    data: np.ndarray


@functools.cache
def reverse_steps(levels: Levels) -> Steps:
    """Return the constants of a table's reverse steps, computed in float64."""
    sigmas = np.asarray(levels.sigmas)
    alpha_bar = 1 / (1 + sigmas**2)
    before = np.append(1.0, alpha_bar[:-1])
    beta = -np.expm1(np.log(alpha_bar) - np.log(before))
    noise, noise_before = sigmas**2 * alpha_bar, np.append(0.0, sigmas[:-1] ** 2 * before[1:])
    posterior = beta * noise_before / noise
    posterior[0] = posterior[1]
    data = beta * np.sqrt(before) / noise
    return Steps(*(np.asarray(a, np.float32) for a in (np.log(beta), np.log(posterior), data)))


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """``|eps - F|^2 + L_vb``, means over the elements of a sample; L_vb in bits.

    L_vb is the divergence of the true reverse step from the predicted one and, at the lowest
    level, the negative logarithm of the probability of the data's pixel values. The predicted
    noise is held fixed in it, so that it trains v alone.

    Attributes:
        preconditioner: of a network that predicts noise (`preconditioning.Discrete`).
        corruption: its distribution is a table, `noise.discrete`.
        weighting: of the first term, as a weight of the error in x0; by default that term is as
            above.
        bound: weight of L_vb, 1 in DiT.

    Raises:
        ValueError: a distribution that is no table, or a negative weight.

    Source: Peebles and Xie, arXiv 2212.09748; Nichol and Dhariwal, arXiv 2102.09672, eq. 15.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting = dataclasses.field(default_factory=uniform)
    bound: float = 1.0

    def __post_init__(self):
        if not isinstance(self.corruption.levels, Levels):
            raise ValueError(
                "the hybrid loss needs noise levels that are steps of a table: noise discrete or "
                "iddpm_levels"
            )
        if not self.bound >= 0:
            raise ValueError(f"hybrid: bound is a weight, 0 or more, got {self.bound}")

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and its two parts; see `losses.Loss`.

        Raises:
            ValueError: a network without channels for v.
        """
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        found = outcome(main.denoiser, given)
        if found.raw.shape[-1] != 2 * given.clean.shape[-1]:
            raise ValueError(
                f"the hybrid loss trains a variance for each of {given.clean.shape[-1]} channels, "
                f"and the network returns {found.raw.shape[-1]}: set model.learn_variance"
            )
        step = self.corruption.levels.index(given.sigma)
        error = weighted_error(self.weighting, self.preconditioner, given.column, found)
        bound = variational_bound(reverse_steps(self.corruption.levels), step, given.clean, found)
        return error + self.bound * bound, {"noise_error": error, "bound": bound}


def variational_bound(
    steps: Steps, step: Array, clean: Float[Array, " batch *shape"], found: Outcome
) -> Float[Array, " batch"]:
    """Return L_vb of each sample in bits, mean over its elements.

    Args:
        steps: of the table.
        step: each sample's place in it.
        clean: x0, in [-1, 1].
        found: what the network gave; its gradient reaches v alone.
    """
    shape = (-1,) + (1,) * (clean.ndim - 1)
    largest, smallest, data = (jnp.asarray(a)[step].reshape(shape) for a in steps)
    # How far the predicted x0 is from the true one; both posterior means share the rest.
    away = jax.lax.stop_gradient(found.coefficients.out * found.error)
    share = (found.raw[..., clean.shape[-1] :] + 1) / 2
    log_variance = share * largest + (1 - share) * smallest
    divergence = 0.5 * (
        log_variance
        - smallest
        - 1
        + jnp.exp(smallest - log_variance)
        + (data * away) ** 2 * jnp.exp(-log_variance)
    )
    surprise = -_log_probability(clean, clean + away, log_variance)
    first = (step == 0).reshape(shape)
    return over_elements(jnp.mean, jnp.where(first, surprise, divergence)) / math.log(2)


def _log_probability(clean: Array, mean: Array, log_variance: Array) -> Array:
    """Return the logarithm of a Gaussian's mass on the pixel value that ``clean`` stands for."""
    precision = jnp.exp(-log_variance / 2)
    upper = (clean - mean + HALF_BIN) * precision
    lower = (clean - mean - HALF_BIN) * precision
    # log(cdf(upper) - cdf(lower)), in the tail where the cumulative functions keep their digits.
    flip = lower > 0
    above, below = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    log_above, log_below = log_ndtr(above), log_ndtr(below)
    inside = log_above + jnp.log(-jnp.expm1(jnp.minimum(log_below - log_above, -1e-7)))
    inside = jnp.where(clean > EDGE, log_ndtr(-lower), inside)
    return jnp.where(clean < -EDGE, log_ndtr(upper), inside)


@register("loss", "2212.09748", "2102.09672")
def hybrid(
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    /,
    bound: float = 1.0,
) -> Hybrid:
    """Minimise the error of the predicted noise and the bound that trains the variance.

    Args:
        preconditioner, corruption, weighting, bound: as of `Hybrid`.
    """
    return Hybrid(preconditioner, corruption, weighting, bound)
