"""EVODiff (arXiv 2509.26096): a second-order correction, weighed by how predictions align.

A step goes beyond DDIM's by a multiple of a difference of predictions, and is done again once the
prediction at its end is known, which also starts the next step. How far it goes follows from
projections of predictions on each other.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.registry import register
from .exponential import log_steps
from .solver import Common, source

FINAL_STEPS = ("ddim", "released")
# Projections are clipped to this.
MOST = 2.0
# Beyond so many steps the released code weighs its corrections otherwise.
FEW = 20


class Levels(NamedTuple):
    """A step's constants.

    Attributes:
        beyond: half of ``1 - sigma'/sigma``: of a difference of predictions; 0 for DDIM's step.
        ratio: length of the step before over this one's, in log sigma.
        base: what the balance r has whatever the predictions are.
        weight: of the projection in r.
        per_sigma: ``1/sigma' - 1/sigma``; 0 in schedules of few steps.
        square: ``(sigma'/sigma)^2``.
    """

    beyond: Float[Array | np.ndarray, " *steps"]
    ratio: Float[Array | np.ndarray, " *steps"]
    base: Float[Array | np.ndarray, " *steps"]
    weight: Float[Array | np.ndarray, " *steps"]
    per_sigma: Float[Array | np.ndarray, " *steps"]
    square: Float[Array | np.ndarray, " *steps"]


class Table(NamedTuple):
    """What a step needs to know.

    Attributes:
        keep: ``sigma'/sigma``.
        gain: of DDIM's step; 1 but in the released final one.
        here: of this step.
        before: of the step that led here; all zero where there is nothing to do again.
    """

    keep: Float[Array | np.ndarray, " *steps"]
    gain: Float[Array | np.ndarray, " *steps"]
    here: Levels
    before: Levels


class State(NamedTuple):
    """What is kept of the step before.

    Attributes:
        ddim: where DDIM's step led, ``[batch, ...]``.
        newest, older: the prediction that step started from and the one before,
            ``[batch, ...]``.
        difference: ``newest - r older``, ``[batch, ...]``.
        reach: what divides it, one value a sample and channel.
    """

    ddim: Float[Array, " batch *shape"]
    newest: Float[Array, " batch *shape"]
    older: Float[Array, " batch *shape"]
    difference: Float[Array, " batch *shape"]
    reach: Float[Array, " batch *ones"]


@dataclasses.dataclass(frozen=True)
class Evodiff(Common):
    """EVODiff, one evaluation a step, first order; a step to sigma = 0 is Euler's.

    Attributes:
        final_step: the step to the lowest noise level above 0.
    """

    order: ClassVar[int] = 1
    final_step: str

    def tables(self, sigmas):
        """Return each step's `Table`."""
        steps, last = len(sigmas) - 1, int(np.sum(sigmas > 0)) - 2
        keep, gain, h = sigmas[1:] / sigmas[:-1], np.ones(steps), log_steps(sigmas)
        here = Levels(*np.zeros((len(Levels._fields), steps)))
        here.ratio[:] = 1
        # The first step has no difference to go along, and the last goes its own way.
        inner = slice(1, max(last, 1))
        here.beyond[inner] = (1 - keep[inner]) / 2
        here.ratio[inner] = h[: max(last, 1) - 1] / h[inner]
        time = (sigmas[1:][inner] + sigmas[last + 1]) / (sigmas[0] + sigmas[last + 1])
        here.weight[inner] = (1 - time**2) / 2
        balance = np.sqrt(keep[inner] / keep[: max(last, 1) - 1])
        here.base[inner] = (1 - here.weight[inner]) * balance
        if last >= FEW:
            here.per_sigma[inner] = 1 / sigmas[1:][inner] - 1 / sigmas[:-1][inner]
        here.square[inner] = keep[inner] ** 2
        before = Levels(*(np.append(0.0, values[:-1]) for values in here))
        before.ratio[before.beyond == 0] = 1
        if self.final_step == "released" and last > 0:
            ratio = keep[last]
            here.base[last] = 1 - np.sqrt(ratio if ratio < 0.5 else ratio - 0.5) / 2
            # `_reach` divides by the sigmoid, which that step has not.
            sigmoid = 1 / (1 + np.exp(-here.base[last] / 4))
            here.beyond[last] = (1 - ratio) / 2 * sigmoid
            gain[last] = 1 - np.sqrt(sigmas[last] * sigmas[last + 1])
        return Table(keep, gain, here, before)

    def init(self, x):
        """Return a state that nothing is taken from."""
        nothing = jnp.zeros_like(x)
        return State(nothing, nothing, nothing, nothing, jnp.ones_like(_summed(x)))

    def step(self, denoise, x, interval, state, key):
        del key
        table = interval.table
        guided = denoise(x, interval.start)
        denoised = source(guided)
        x = jnp.where(table.before.beyond > 0, self._again(denoised, state, table.before), x)
        # Exact at sigma' = 0, where keep and beyond are 0.
        ddim = denoised + table.keep * (x - denoised)
        balance = _balance(table.here, denoised, state.newest)
        difference = denoised - balance * state.newest
        reach = _reach(table.here, balance)
        after = table.gain * ddim + table.here.beyond * difference / reach
        return after, guided, State(ddim, denoised, state.newest, difference, reach)

    def _again(self, denoised, state, levels):
        """Return where the step before should have led, now that its end's prediction is known."""
        ratio, half = levels.ratio, levels.beyond
        later = denoised - _balance(levels, denoised, state.newest) * state.newest
        backward, forward = state.difference / ratio, ratio * later
        # Both over 1/sigma' - 1/sigma in the paper, which a projection does not see.
        aligned = _projection(forward + backward, forward - backward)
        eta = jax.nn.sigmoid(jnp.abs(aligned) / 2) / 2
        slope = (1 - eta) * forward - eta * backward
        missed = half * (state.difference - slope) / state.reach
        excess = jnp.abs(_projection(missed, state.difference) / _or_one(2 * half)) - 0.5
        change = (state.newest - state.older) / _or_one(levels.per_sigma)
        steady = jax.nn.sigmoid(_projection(state.newest, change) * (2 - levels.square))
        excess = jnp.where(levels.per_sigma > 0, -excess * steady, excess)
        return state.ddim + half * slope / jax.nn.sigmoid(excess)


@register("solver")
def evodiff(final_step: str = "ddim") -> Evodiff:
    """Return EVODiff; its second order is claimed in the paper but not kept by its constants.

    With ``h = 1 - sigma'/sigma``, ``x_D`` DDIM's step, ``rho`` the length of the step before over
    this one's in log sigma, and projections ``<a, b>/<b, b>`` in each sample and channel (in each
    sample where there are no channels), clipped to [-2, 2]:
    ``x~ = x_D + h/2 (D - r D_before) / (rho sigmoid(|r|/4))`` is where the next prediction is made,
    ``x' = x_D + h/2 (rho (1 - eta) (D' - r' D) - eta/rho (D - r D_before)) / zeta`` what the next
    step starts from. r, r', eta and zeta are functions of projections. They do not go to what
    second order asks for, so errors fall like one over the number of steps. The first step is
    DDIM's, and a step to 0 is Euler's.

    Args:
        final_step: the step to the lowest noise level above 0. ``ddim``, or ``released``, that of
            the released code: ``(1 - sqrt(sigma sigma')) x_D + h/2 (D - r_f D_before)`` with
            ``r_f = 1 - sqrt(sigma'/sigma)/2`` (from one half on, ``sigma'/sigma`` less one half).
            It makes a constant prediction up to a tenth larger, the more the fewer the steps, and
            is of no use on schedules that end far from 0.

    Raises:
        ValueError: another final step.

    Source: arXiv 2509.26096, with the constants of its released code.
    """
    if final_step not in FINAL_STEPS:
        raise ValueError(
            f"samplers.evodiff: final_step is {' or '.join(FINAL_STEPS)}, got {final_step!r}"
        )
    return Evodiff(final_step)


def _summed(x: Array) -> Array:
    """Return sums over each sample's places, or over all of a sample that has no channels."""
    axes = tuple(range(1, x.ndim - 1)) or tuple(range(1, x.ndim))
    return jnp.sum(x, axis=axes, keepdims=True)


def _or_one(value: Array) -> Array:
    return jnp.where(value == 0, 1.0, value)


def _projection(a: Array, b: Array) -> Array:
    """Return ``<a, b> / <b, b>`` clipped; 0 along nothing."""
    return jnp.clip(_summed(a * b) / _or_one(_summed(b * b)), -MOST, MOST)


def _balance(levels: Levels, later: Array, earlier: Array) -> Array:
    """Return how much of an earlier prediction is taken from a later one."""
    return jnp.asarray(levels.base + levels.weight * _projection(later, earlier))


def _reach(levels: Levels, balance: Array) -> Array:
    """Return what divides a difference of predictions.

    The paper clips it to between 1/4 and 3/2 of ``ratio``, which a sigmoid of what is not negative
    never leaves.
    """
    return jnp.asarray(levels.ratio * jax.nn.sigmoid(jnp.abs(balance) / 4))
