"""Feynman-Kac steering: particles weighed by rewards of their predictions (2501.06848)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree, replaced, static
from ...core.random import fold_each
from ...core.registry import register
from ...core.rewards import Reward
from ...guidance.gradients import REWARD
from ..solvers.ancestral import ancestral
from ..solvers.solver import Interval, Kernel, Solver
from .groups import checked_particles
from .moving import (
    REWARDING,
    Grouped,
    checked_kernel,
    is_last,
    require_clean_end,
)
from .values import Tilt, tilt
from .weights import checked_scheme, checked_share

POTENTIALS = ("difference", "max", "sum")


class Table(NamedTuple):
    """A step's constants: the kernel's own, and whether particles are weighed, 1 or 0."""

    own: Any
    weighs: Float[Array | np.ndarray, " *steps"]


@pytree
class Steering(Grouped):
    """Particles moved by a kernel, and weighed by their values before each move.

    Attributes:
        tilt: values of particles.
        kernel, resample_below, particles, scheme: see `Grouped`.
        potential: one of `POTENTIALS`.
        every: how many steps there are from one weighing to the next.
        low, high: noise levels between which particles are weighed, half-open.
        owner: in whose name messages are.
        ends: whether the step at hand is the last; see `at`.
    """

    tilt: Tilt
    kernel: Kernel
    resample_below: float
    particles: int = static()
    scheme: str = static()
    potential: str = static()
    every: int = static()
    low: float = static()
    high: float = static()
    owner: str = static(default="steer")
    ends: bool = static(default=False)

    @property
    def renoises(self) -> bool:  # type: ignore[override]
        """Whether the kernel says what it does with another noise direction."""
        return self.kernel.renoises

    def tables(self, sigmas):
        """Return each step's `Table`.

        Raises:
            ValueError: a schedule that does not end in 0.
        """
        require_clean_end("steer", sigmas)
        return Table(self.kernel.tables(sigmas), self._weighs(sigmas).astype(np.float64))

    def _weighs(self, sigmas):
        inside = (sigmas[:-1] > self.low) & (sigmas[:-1] <= self.high)
        return inside & (np.arange(len(inside)) % self.every == 0)

    def beside(self, step, sigmas):
        """Return the rewards of a step: the last asks for those of what comes out."""
        if is_last(step, sigmas):
            return {REWARD: 1}
        return {REWARD: self.tilt.rewards} if self._weighs(sigmas)[step] else {}

    def at(self, step, sigmas):
        """Return the solver of a step; the last weighs what comes out."""
        return replaced(self, ends=is_last(step, sigmas))

    def step(self, denoise, x, interval, state, key):
        table = interval.table
        once = Interval(interval.start, interval.end, table.own)
        condition, rewarding = denoise.condition, fold_each(key, REWARDING)
        guided = denoise(x, interval.start)
        if self.ends:
            x = self.kernel.move(x, guided, once, key)
            # All potentials together are scale r(x0), whatever they were on the way.
            growth = self.tilt.of_clean(x, condition, rewarding) - state.spent
            x, state, guided = self.weighed(denoise, x, state, guided, growth, key, last=True)
            return x, guided, state

        def values():
            return self.tilt.ahead(x, interval.start, guided.denoised, condition, rewarding)

        weighs = table.weighs > 0
        tilts = jax.lax.cond(weighs, values, lambda: jnp.zeros_like(state.spent))
        growth, statistic = self._potential(tilts, state)
        growth = jnp.where(weighs, growth, 0)
        state = state._replace(
            spent=state.spent + growth,
            statistic=jnp.where(weighs, statistic, state.statistic),
        )
        kept = guided
        (x, kept), state, guided = self.weighed(denoise, (x, kept), state, guided, growth, key)
        return self.kernel.move(x, kept, once, key), guided, state

    def init(self, x):
        state = super().init(x)
        if self.potential == "max":
            return state._replace(statistic=jnp.full_like(state.statistic, -jnp.inf))
        return state

    def _potential(self, tilts, state):
        """Return the log-potentials of values, and what is remembered of them."""
        if self.potential == "difference":
            return tilts - state.spent, state.statistic
        seen = (
            jnp.maximum(state.statistic, tilts)
            if self.potential == "max"
            else state.statistic + tilts
        )
        return seen, seen


@register("solver")
def steer(
    reward: Reward,
    scale: float | Array = 1.0,
    particles: int = 4,
    kernel: Solver = ancestral(),  # noqa: B008  (immutable)
    *,
    potential: str = "difference",
    value: str | Callable = "mean",
    draws: int | None = None,
    variance: float | None = None,
    resample_below: float = 0.5,
    scheme: str = "systematic",
    every: int = 1,
    low: float = 0.0,
    high: float = math.inf,
) -> Steering:
    """Return Feynman-Kac steering: draws from ``p(x0) exp(scale r(x0))``, p the kernel's own law.

    Particles of a group are weighed by potentials G of the values V of their predictions, resampled
    when few of them carry the weight, and moved by the kernel. The last step weighs what comes out
    by ``scale r(x0)`` less all potentials before, so that these telescope, and resamples: what
    comes out are unweighted draws, some of them equal. Any rule goes inside: p is then the law of
    guided samples, and not what the rule's paper aims at (for CFG, see `feynman_kac`).

    Exact as groups get larger, for any reward, differentiable or not, and any potential. ``info``
    has ``log_weight`` and ``effective`` (particles) before each resampling, ``log_evidence`` (whose
    exponential at the last step estimates ``E[exp(scale r)]`` without bias) and ``distinct``, how
    many of the first particles the group descends from. A group must be sampled in one batch.

    Args:
        reward: of clean samples; gradients are not asked for.
        scale: inverse temperature, lambda; 0 is the kernel alone.
        particles: in a group, consecutive in the batch and of one condition; 1 is the kernel alone.
        kernel: `ancestral` or `euler_maruyama`, with noise.
        potential: ``difference`` of a value and the last one; ``max`` of all values so far, or
            their ``sum``, both for few weighings and small scales alone.
        value: ``mean``, the reward of the prediction; ``many``, the log-mean-exponential of the
            rewards of draws around it; or a function ``(x, sigma, condition) -> V``.
        draws, variance: of ``many``: how many draws (4), from ``N(D, v sigma^2 / (v + sigma^2))``,
            v the data's variance (1).
        resample_below: share of the particles; 0 resamples only at the end, 1 at every weighing.
        scheme: see `samplers.particles.weights.drawn`.
        every: steps from one weighing to the next.
        low, high: particles are weighed at noise levels in ``(low, high]`` and at the end. Rewards
            of blurred predictions misrank: begin near the data's standard deviation.

    Raises:
        ValueError: a kernel that adds no noise or evaluates more than once, unknown names, or
            numbers out of range; when sampling, a batch that is no whole number of groups, groups
            of mixed conditions, or a schedule that does not end in 0.

    Source: Singhal et al., arXiv 2501.06848, algorithm 1.
    """
    size = checked_particles("steer", particles)
    if potential not in POTENTIALS:
        raise ValueError(
            f"samplers.steer: potential must be one of {', '.join(POTENTIALS)}, got {potential!r}"
        )
    if isinstance(every, bool) or every != int(every) or every < 1:
        raise ValueError(f"samplers.steer: every must be a whole number from 1, got {every!r}")
    if not 0 <= low < high:
        raise ValueError(f"samplers.steer: need 0 <= low < high, got low={low}, high={high}")
    return Steering(
        tilt("steer", reward, scale, value, draws, variance),
        checked_kernel("steer", kernel),
        checked_share("steer", resample_below),
        size,
        checked_scheme("steer", scheme),
        potential,
        int(every),
        float(low),
        float(high),
    )
