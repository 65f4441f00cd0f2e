"""Upward along a schedule: the noise that a sampler turns into a given sample (DDIM inversion).

A step up follows the step down over the same two noise levels: it holds the rule that holds
there, decided at the upper level, and draws what is drawn there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.calls import takes_parts
from ..core.random import fold_each, keys_per_sample
from ..guidance.protocol import Rule
from .arguments import Fixed, floats, opaque, separated, state_of
from .checks import Keys, Levels, checked
from .conditions import checked_condition
from .evaluator import MODES
from .loop import Calls, GuidedDenoiser, segments
from .networks import Networks, by_name, check_networks
from .programs import program
from .solvers.euler import Euler
from .solvers.solver import Interval, Solver


@dataclasses.dataclass(frozen=True)
class Program:
    """What an upward run compiles in: the structure of its arguments, and how steps group.

    Attributes:
        fixed: networks and rules without their numbers.
        counts: number of steps of each rule, in the schedule's order.
        calls: how networks are called.
    """

    fixed: Fixed
    counts: tuple[int, ...]
    calls: Calls

    def climb(self, numbers: list, intervals: Interval, start: Callable, step: Callable) -> Any:
        """Take all steps from the lowest noise level to the highest; traced.

        Args:
            numbers, intervals: the numbers and the steps that `upward` found.
            start: ``rule -> carry``.
            step: ``(networks, rule, carry, number, interval) -> carry``, with the number of the
                step in the schedule and the interval from its lower end to its upper.
        """
        networks, rule, holding = self.fixed.filled(numbers)
        carry, stop = start(rule), sum(self.counts)
        steps = (jnp.arange(stop), intervals)
        for holds, count in zip(reversed(holding), reversed(self.counts), strict=True):

            def body(carry, row, holds=holds):
                return step(networks, holds, carry, *row), None

            rows = jax.tree.map(lambda a: a[stop - count : stop], steps)  # noqa: B023
            carry, _ = jax.lax.scan(body, carry, rows, reverse=True)
            stop -= count
        return carry


class Upward(NamedTuple):
    """An upward run.

    Attributes:
        program: what it compiles in.
        numbers: those of networks and rules.
        steps: in the schedule's order; each begins at its lower noise level, with the solver's
            constants for that direction.
        x: the samples, in the state's type.
        condition: labels as an array.
        opaque: whether some network is no pytree.
    """

    program: Program
    numbers: list
    steps: Interval
    x: Array
    condition: Any
    opaque: bool


def upward(
    owner: str,
    denoise: Callable | Networks,
    rule: Rule,
    solver: Solver,
    sigmas: Levels,
    x: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    branches: str,
) -> Upward:
    """Return an upward run.

    Raises:
        ValueError: as `invert`, in the name of ``owner``.
    """
    sigmas = checked(sigmas, owner)
    if sigmas[-1] == 0:
        raise ValueError(
            f"samplers.{owner}: the schedule ends in 0, where the noise direction is not defined: "
            f"leave the 0 out (sigmas[:-1], or final_zero=False) and give the sample as it is at "
            f"sigma {sigmas[-2]:g}, which the clean one stands for"
        )
    if branches not in MODES:
        raise ValueError(f"samplers.{owner}: branches is {' or '.join(MODES)}, got {branches!r}")
    x = state_of(owner, "x", x)
    networks = by_name(owner, denoise)
    parts = segments(rule, solver, sigmas, upward=True)
    check_networks(owner, rule, parts, sigmas, networks, x)
    condition, guarded = checked_condition(owner, rule, parts, networks, condition, x)
    fixed, numbers = separated((networks, *floats((rule, [part.rule for part in parts]))))
    counts = tuple(part.steps for part in parts)
    tables = jax.tree.map(lambda table: table[::-1], solver.tables(sigmas[::-1]))
    intervals = Interval(sigmas[1:], sigmas[:-1], tables)
    intervals = jax.tree.map(lambda a: np.asarray(a, x.dtype), intervals)
    compiled = Program(fixed, counts, Calls(branches, guarded))
    return Upward(compiled, numbers, intervals, x, condition, opaque(networks))


@takes_parts("samplers")
def invert(
    denoise: Callable | Networks,
    rule: Rule,
    sigmas: Levels,
    x: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    refinements: int = 0,
    branches: str = "fused",
) -> Float[Array, " batch *shape"]:
    """Return the noise from which Euler's method (DDIM) makes ``x``.

    ``sample(denoise, rule, euler(), sigmas, noise, ...)`` with the same condition and key leads
    back to x. Every step up is one of Euler's, from ``sigma'`` to ``sigma``: without refinement
    the way back misses x by an error of first order in the steps, larger under a guidance scale
    above 1. A refinement solves ``Euler's step down from x_up = x`` by one more iteration of
    ``x_up + (x - down(x_up))``, which is ``x + (sigma - sigma')(x_up - D(x_up))/sigma``: each
    brings x_up nearer to the exact inverse as long as ``(1 - sigma'/sigma) |I - dD/dx| < 1``.
    Where strong guidance breaks this, take more steps. Rules that keep the noise of another
    prediction (CFG++) are followed by their own step, ``D + sigma (x - S)/sigma'``; there also
    ``dD/dx - dS/dx`` must be small, however many the steps.

    A rule that carries a state carries it upward, the evaluations of one step all beginning from
    the same: the way back, whose state runs downward, then misses x however often it is refined.

    Args:
        denoise, rule, condition, key, branches: as in `sample`. A rule that draws draws in every
            step what it will draw there on the way back.
        sigmas: decreasing noise levels without a final 0.
        x: samples at the lowest noise level, which clean ones stand for. float32, or float64
            where x64 is on.
        refinements: iterations a step; ``1 + refinements`` guided predictions a step.

    Returns:
        Unit noise: the state at ``sigmas[0]``, divided by it.

    Raises:
        ValueError: sigmas that end in 0; sigmas, networks and conditions that `sample` refuses
            too; a number of refinements that is none.

    Source: Song et al., arXiv 2010.02502.
    """
    if not isinstance(refinements, int) or isinstance(refinements, bool) or refinements < 0:
        raise ValueError(
            f"samplers.invert: refinements must be 0 or a positive integer, got {refinements!r}"
        )
    run = upward("invert", denoise, rule, Euler(), sigmas, x, condition, branches)
    keys = keys_per_sample("samplers.invert", key, run.x.shape[0])
    static = run.program, refinements
    return _invert(static, run.numbers, run.x, run.condition, keys, run.steps, opaque=run.opaque)


@program
def _invert(static, numbers, x, condition, keys, intervals):
    run, refinements = static

    def step(networks, rule, carry, number, interval):
        x, state = carry
        step_keys = fold_each(keys, number)

        def euler(at, interval):
            # Every evaluation from the same state and keys: what is solved for stands still.
            denoise = GuidedDenoiser(networks, rule, state, condition, step_keys, run.calls)
            after, _, _ = Euler().step(denoise, at, interval, (), None)
            return after, denoise.state

        def refined(_, carry):
            up, _ = carry
            down, after = euler(up, Interval(interval.end, interval.start, ()))
            return up + (x - down), after

        return jax.lax.fori_loop(0, refinements, refined, euler(x, interval))

    x, _ = run.climb(numbers, intervals, lambda rule: (x, rule.init(x)), step)
    return x / intervals.end[0]
