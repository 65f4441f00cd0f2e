"""Twisted particles: proposals that climb a guess of the target, and weights that correct them.

TDS (Wu et al., arXiv 2306.17775) and DAS (Kim et al., arXiv 2501.05803), one of a guess in force
from the start, the other of one that is tempered.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ...core.pytrees import pytree, replaced, static
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...core.rewards import Reward, require_gradient, values_of
from ...guidance.gradients import GRADIENT, REWARD
from ...guidance.measurements import Measurement, measured
from ...guidance.operators.operator import Operator
from ..solvers.ancestral import ancestral
from ..solvers.solver import Interval, Kernel, Solver
from .groups import checked_particles
from .moving import REWARDING, Grouped, checked_kernel, is_last, require_clean_end
from .weights import checked_scheme, checked_share, effective

# Halvings of the interval in which a tempering is looked for: to float32's last bits.
HALVINGS = 24
# The share of a schedule's steps by which tempering is complete, unless a rate is given.
COMPLETE = 0.87
GEOMETRIC, ADAPTIVE = "geometric", "adaptive"


class Twist(Protocol):
    """A guess of the log-target of noisy samples, by their predictions; a pytree."""

    @property
    def rewards(self) -> int:
        """How many rewards it asks for."""

    def __call__(
        self,
        denoised: Float[Array, " batch *shape"],
        sigma: Float[Array, ""],
        condition: Any,
        key: Key[Array, " batch"],
    ) -> Float[Array, " batch"]:
        """Return ``log psi``; at sigma 0, the log-target of clean samples."""


@pytree
class Rewarded:
    """The reward of the prediction, whatever the noise."""

    reward: Reward

    rewards = 1

    def __call__(self, denoised, sigma, condition, key):
        del sigma
        return values_of(self.reward, denoised, condition, key)


@pytree
class Measured:
    """The likelihood of a measurement, of clean samples ``N(D, r^2)``.

    Attributes:
        measurement: what was measured.
        noise: its standard deviation n.
        variance: v of the data as it is believed, ``r^2 = v sigma^2 / (v + sigma^2)``.
    """

    measurement: Measurement
    noise: float | Array
    variance: float | Array

    rewards = 0

    def __call__(self, denoised, sigma, condition, key):
        del condition, key
        noise, variance = (jnp.asarray(n, denoised.dtype) for n in (self.noise, self.variance))
        # Also of a variance of 0 or infinity, and of no noise.
        spread = 1 / (1 / variance + 1 / sigma**2)

        def gain(s):
            # u^T (r^2 A A^T + n^2)^-1 u of u = y - A D, by c = A^+ u = V S^-1 U^T u.
            return s**2 / (spread * s**2 + noise**2)

        correction = self.measurement.correction(denoised)
        form = correction * self.measurement.operator.filtered(correction, gain)
        return -jnp.sum(form, axis=tuple(range(1, form.ndim))) / 2


class Table(NamedTuple):
    """A step's constants: the kernel's own, and powers of the twist: here, and in its proposal."""

    own: Any
    power: Float[Array | np.ndarray, " *steps"]
    following: Float[Array | np.ndarray, " *steps"]


@pytree
class Twisting(Grouped):
    """Particles whose kernel is moved up a twist, and weighed for that.

    What they remember (`Particles.statistic`) is the power of the twist.

    Attributes:
        twist: the guess that is climbed.
        tilt: what its logarithm is multiplied by. (A solver's ``scale`` is one for networks.)
        kernel, resample_below, particles, scheme: see `Grouped`.
        rate: of geometric tempering; None for the one that is complete in time.
        tempering: ``geometric``, ``adaptive``, or empty for none.
        owner: in whose name messages are.
        ends: whether the step at hand is the last; see `at`.
    """

    twist: Twist
    tilt: float | Array
    kernel: Kernel
    resample_below: float
    rate: float | None
    particles: int = static()
    scheme: str = static()
    tempering: str = static()
    owner: str = static()
    ends: bool = static(default=False)

    def tables(self, sigmas):
        """Return each step's `Table`.

        Raises:
            ValueError: a schedule that does not end in 0.
        """
        require_clean_end(self.owner, sigmas)
        done = np.arange(len(sigmas))
        if self.tempering == GEOMETRIC:
            rate = self.rate
            if rate is None:
                rate = 2 ** (1 / (COMPLETE * (len(sigmas) - 1))) - 1
            # Capped before the power, which may leave float64.
            power = np.minimum(np.expm1(np.minimum(done * np.log1p(rate), 1.0)), 1.0)
        else:
            power = np.ones(len(sigmas))
        return Table(self.kernel.tables(sigmas), power[:-1], power[1:])

    def beside(self, step, sigmas):
        """Return the rewards of a step, and their gradients; the last asks for none of these."""
        count = self.twist.rewards
        if not count:
            return {}
        return {REWARD: 1} if is_last(step, sigmas) else {REWARD: 1, REWARD + GRADIENT: 1}

    def at(self, step, sigmas):
        """Return the solver of a step; the last weighs what comes out."""
        return replaced(self, ends=is_last(step, sigmas))

    def step(self, denoise, x, interval, state, key):
        once = Interval(interval.start, interval.end, interval.table.own)
        condition, rewarding = denoise.condition, fold_each(key, REWARDING)
        scale = jnp.asarray(self.tilt, x.dtype)
        if self.ends:
            guided = denoise(x, interval.start)
            x = self.kernel.move(x, guided, once, key)
            clean = self.twist(x, jnp.zeros_like(interval.start), condition, rewarding)
            growth = scale * clean - state.spent
            x, state, guided = self.weighed(denoise, x, state, guided, growth, key, last=True)
            return x, guided, state

        guided, back = denoise.pull(x, interval.start)

        def total(denoised):
            twists = scale * self.twist(denoised, interval.start, condition, rewarding)
            return jnp.sum(twists), twists

        gradient, twists = jax.grad(total, has_aux=True)(guided.denoised)
        power = self._power(state, twists, interval.table)
        growth = power * twists - state.spent
        state = state._replace(spent=power * twists, statistic=power)
        # The gradient belongs to its particle as the prediction does.
        carry = x, guided, back(gradient)
        (x, kept, gradient), state, guided = self.weighed(
            denoise, carry, state, guided, growth, key
        )
        mean, deviation = self.kernel.transition(x, kept, once)
        aim = self._aim(x, kept, gradient, mean, deviation, state, once, interval.table)
        noise = normal_like(key, x)
        # log N(x'; mean) - log N(x'; aim), both of one variance, at x' = aim + deviation noise.
        away = (aim - mean) / deviation
        ratio = -jnp.sum(away * (away / 2 + noise), axis=tuple(range(1, x.ndim)))
        state = state._replace(log_weight=state.log_weight + ratio)
        return aim + deviation * noise, guided, state

    def _aim(self, x, guided, gradient, mean, deviation, state, once, table):
        """Return the mean of the proposal."""
        if not self.tempering:
            moved = guided.denoised + once.start**2 * gradient
            return self.kernel.transition(x, guided._replace(denoised=moved), once)[0]
        power = table.following
        if self.tempering == ADAPTIVE:
            power = state.statistic.reshape(-1, *[1] * (x.ndim - 1))
        return mean + deviation**2 * power * gradient

    def _power(self, state, twists, table):
        """Return the power of each particle's twist."""
        if self.tempering != ADAPTIVE:
            return jnp.full_like(twists, table.power)
        before = (state.log_weight - state.spent).reshape(-1, self.particles)
        grouped = twists.reshape(before.shape)
        enough = self.resample_below * self.particles

        def fits(power):
            return effective(before + power[:, None] * grouped) >= enough

        lowest = state.statistic[:: self.particles]

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            good = fits(middle)
            return jnp.where(good, middle, low), jnp.where(good, high, middle)

        whole = jnp.ones_like(lowest)
        low, _ = jax.lax.fori_loop(0, HALVINGS, halve, (lowest, whole))
        return jnp.repeat(jnp.where(fits(whole), whole, low), self.particles)


def _particles(
    owner: str, twist: Twist, scale: Any, kernel: Solver, resample_below: float, rate: Any,
    particles: int, scheme: str, tempering: str,
) -> Twisting:  # fmt: skip
    return Twisting(
        twist,
        scale,
        checked_kernel(owner, kernel),
        checked_share(owner, resample_below),
        rate,
        checked_particles(owner, particles),
        checked_scheme(owner, scheme),
        tempering,
        owner,
    )


@register("solver")
def twisted(
    reward: Reward | Operator,
    measurement: Any = None,
    scale: float | Array = 1.0,
    particles: int = 4,
    kernel: Solver = ancestral(),  # noqa: B008  (immutable)
    *,
    noise: float | Array | None = None,
    variance: float | Array | None = None,
    resample_below: float = 0.5,
    scheme: str = "systematic",
) -> Twisting:
    r"""Return the twisted diffusion sampler: `steer` whose particles climb before they are weighed.

    A twist ``psi(x, sigma)`` guesses ``E[target | x]``. The kernel's mean is that of the prediction
    ``D + sigma^2 grad_x log psi``, and weights grow by
    ``log p(x'|x) - log q(x'|x) + log psi' - log psi``, so that any twist is right with many
    particles, and a good one with few: with the exact one weights do not vary. A twist that is too
    sure is worse than none. The step to 0 is not twisted, and weighs by the target itself.

    The target is ``p(x0) exp(scale r(x0))``, p the law of the kernel with the rule inside. Of a
    classifier's log-probability the twist is the reward of the prediction; of a measurement
    ``y = A x0 + n z`` the Gaussian likelihood of ``N(D, v sigma^2 / (v + sigma^2))``, exact for
    data of variance v. ``info`` as in `steer`.

    Args:
        reward: a differentiable reward; or an operator, with a measurement.
        measurement: y, with an operator.
        scale: multiplies the log-target, and the twist.
        particles: in a group, consecutive in the batch and of one condition; 1 is a gradient rule.
        kernel: `ancestral` or `euler_maruyama`, with noise.
        noise: n, with an operator; above 0.
        variance: v, with an operator (1); infinity takes sigma for the spread, and 0 none.
        resample_below, scheme: as in `steer`.

    Raises:
        ValueError: a reward without gradient, a measurement without noise or with a reward, a
            kernel that adds no noise or evaluates more than once, numbers out of range; when
            sampling, as `steer`, or a rule that takes its noise from another prediction.

    Source: Wu et al., arXiv 2306.17775, algorithm 1.
    """
    twist: Twist
    if isinstance(reward, Operator):
        if measurement is None or noise is None:
            raise ValueError(
                "samplers.twisted: an operator comes with a measurement and its noise: give both, "
                "as in twisted(operator, y, noise=0.05)"
            )
        if isinstance(noise, (int, float)) and not noise > 0:
            raise ValueError(
                f"samplers.twisted: noise must be above 0, got {noise}: without noise no particle "
                f"fits exactly; give a small one, or use samplers.repaint or guidance.ddnm"
            )
        believed = 1.0 if variance is None else variance
        if isinstance(believed, (int, float)) and not believed >= 0:
            raise ValueError(f"samplers.twisted: variance must be 0 or more, got {variance}")
        twist = Measured(measured("twisted", reward, measurement), noise, believed)
    else:
        if measurement is not None or noise is not None or variance is not None:
            raise ValueError(
                "samplers.twisted: measurement, noise and variance belong to an operator, and here "
                "is a reward: leave them out"
            )
        twist = Rewarded(require_gradient("samplers.twisted", reward))
    return _particles(
        "twisted", twist, scale, kernel, resample_below, None, particles, scheme, ""
    )  # fmt: skip


@register("solver")
def das(
    reward: Reward,
    scale: float | Array = 1.0,
    particles: int = 4,
    kernel: Solver = ancestral(),  # noqa: B008  (immutable)
    *,
    tempering: str = "geometric",
    rate: float | None = None,
    resample_below: float = 0.5,
    scheme: str = "ssp",
) -> Twisting:
    """Return DAS: twisted particles whose target is tempered, from none of the reward to all of it.

    As `twisted`, with the twist ``exp(lambda_t scale r(D))`` and the kernel's mean moved by its own
    variance times ``lambda scale grad_x r(D)``. ``lambda_t`` is ``(1 + rate)^i - 1`` after i steps,
    1 at most; or, ``adaptive``, as large as leaves a group its share of effective particles, and
    never less than before. Large scales need it: `twisted` spends its particles where noise is
    large.

    Args:
        reward: differentiable.
        scale: inverse temperature, the paper's 1/alpha.
        particles: in a group, consecutive in the batch and of one condition.
        kernel: `ancestral` or `euler_maruyama`, with noise.
        tempering: ``geometric`` or ``adaptive``.
        rate: of the geometric one (the paper's gamma, 0.008 at 100 steps); None has all of the
            reward in force after 87 % of the steps, however many. One that is too small leaves
            the rest to the last step.
        resample_below: share of the particles; what ``adaptive`` keeps.
        scheme: as in `steer`.

    Raises:
        ValueError: a reward without gradient, an unknown tempering, a rate that is not positive or
            that nothing asks for, a kernel that adds no noise or evaluates more than once, numbers
            out of range; when sampling, as `steer`, or a rule that takes its noise from another
            prediction.

    Source: Kim et al., arXiv 2501.05803, algorithm 1. (Its code resamples particles without their
    gradients and twists, and returns the particle of the largest weight.)
    """
    if tempering not in (GEOMETRIC, ADAPTIVE):
        raise ValueError(
            f"samplers.das: tempering must be geometric or adaptive, got {tempering!r}"
        )
    if rate is not None and (tempering == ADAPTIVE or not rate > 0):
        raise ValueError(
            f"samplers.das: rate is above 0 and belongs to tempering='geometric', got rate={rate} "
            f"and tempering={tempering!r}"
        )
    twist = Rewarded(require_gradient("samplers.das", reward))
    return _particles(
        "das", twist, scale, kernel, resample_below, rate, particles, scheme, tempering
    )
