"""Feynman-Kac correction: weighted particles, resampled when few carry the weight (2503.02819)."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree, static
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ..solvers.solver import Common
from .groups import check_groups, checked_particles
from .weights import checked_share, resampled, worn

RATE = "log_weight_rate"


class Table(NamedTuple):
    """A step's constants.

    Attributes:
        keep: share of the noise that stays, ``sigma'^2/sigma^2``.
        noise: standard deviation of what is added.
        growth: what the rate of the log-weights is multiplied by.
        below: share of effective particles below which a group is resampled.
    """

    keep: Float[Array | np.ndarray, " *steps"]
    noise: Float[Array | np.ndarray, " *steps"]
    growth: Float[Array | np.ndarray, " *steps"]
    below: Float[Array | np.ndarray, " *steps"]


@pytree
class FeynmanKac(Common):
    """Euler-Maruyama steps of the reverse SDE, and systematic resampling within groups."""

    order: ClassVar[int] = 1
    resample_below: float
    particles: int | None = static(default=None)

    def check(self, batch, condition):
        """Refuse groups that are not whole, or whose particles have different conditions."""
        check_groups("feynman_kac", self.particles or batch, batch, condition)

    def tables(self, sigmas):
        """Return each step's `Table`."""
        start, end = sigmas[:-1], sigmas[1:]
        fall = start**2 - end**2
        # To 0 the step is no step of the SDE: it returns D, and neither adds noise nor weighs.
        moves = end > 0
        below = np.full(len(start), self.resample_below, np.float64)
        below[-1] = np.inf
        return Table((end / start) ** 2, np.sqrt(fall) * moves, fall * moves, below)

    def init(self, x):
        """Return the log-weights, ``[batch]``."""
        return jnp.zeros(x.shape[0], x.dtype)

    def step(self, denoise, x, interval, state, key):
        table = interval.table
        guided = denoise(x, interval.start)
        if RATE not in guided.info:
            raise ValueError(
                f"samplers.feynman_kac: the rule gives no {RATE!r} at every noise level, so its "
                f"samples cannot be weighted: use guidance.fkc(scale) alone, without an interval "
                f"around it, or another solver"
            )
        x = guided.denoised + table.keep * (x - guided.denoised)
        x = x + table.noise * normal_like(key, x)
        weights = state + table.growth * guided.info[RATE]
        guided = guided._replace(info=guided.info | {"log_weight": weights})
        grouped = weights.reshape(-1, self.particles or len(weights))
        resample = worn(grouped, table.below)
        # One uniform number a group, from the stream of its first particle.
        first = fold_each(key[:: grouped.shape[1]], 1)
        chosen = resampled("systematic", first, grouped, resample)
        weights = jnp.where(resample[:, None], 0, grouped).reshape(-1)
        return denoise.reindex(x, chosen), guided, weights


@register("solver")
def feynman_kac(particles: int | None = None, resample_below: float = 0.5) -> FeynmanKac:
    """Return the solver that samples exactly what guidance names, for `guidance.fkc`.

    ``x' = x + (sigma^2 - sigma'^2) (D - x)/sigma^2 + sqrt(sigma^2 - sigma'^2) z``, and
    ``log W' = log W + (sigma^2 - sigma'^2) rate``. When a group's effective number of particles
    falls below a share of their count, its particles are drawn anew by weight and weigh the same
    again. The last step always ends so: what comes out are unweighted draws, some of them equal.
    A step to 0 returns D and leaves the weights.

    The particles of a group depend on each other by design, and have one condition; groups
    do not depend on each other. A group must be sampled in one batch. A sample is random by its
    own key, but changes with the others of its group.

    Exact as steps get shorter and groups larger; first order in the mean, and in many dimensions
    few particles soon carry all the weight: watch ``info["log_weight"]``.

    Args:
        particles: samples in a group, consecutive in the batch; None takes the whole batch.
        resample_below: share of the particles; 0 resamples only at the end, 1 at every step.

    Raises:
        ValueError: particles not a positive integer, or a share outside [0, 1].

    Source: Skreta et al., arXiv 2503.02819, on the variance-exploding path; systematic
    resampling after the same.
    """
    size = None if particles is None else checked_particles("feynman_kac", particles)
    return FeynmanKac(checked_share("feynman_kac", resample_below), size)
