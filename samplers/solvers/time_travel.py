"""Time travel: noise is added again and steps are taken anew, around a solver of one evaluation.

RePaint's resampling (Lugmayr et al., arXiv 2201.09865), which UGD, FreeDoM, DDNM and TFG call
recurrence or time travel.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree, replaced, static
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...guidance.measurements import Measurement, measured
from ...guidance.operators import Operator
from .ancestral import EulerAncestral, ancestral
from .euler import Euler
from .solver import Common, Interval, Solver

# Streams of a step's key: the noise that is put to what is known before the first step, then those
# of the rows that are taken anew, a few each.
KNOWN, ROWS, EACH = 1, 2, 3


class Table(NamedTuple):
    """A step's constants, and those of the steps of one jump that end with it.

    Attributes:
        own: the solver's inside.
        start, end, inside: of the steps of the jump, ``[steps, jump]`` and more.
        rise: the noise that takes the end of the jump back to its start.
    """

    own: Any
    start: Float[Array | np.ndarray, "*steps jump"]
    end: Float[Array | np.ndarray, "*steps jump"]
    inside: Any
    rise: Float[Array | np.ndarray, " *steps"]


@pytree
class Travel(Common):
    """A solver that goes back and takes its steps anew, and keeps what is measured where it is.

    Attributes:
        solver: takes the steps, one evaluation each.
        known: what is put in before each evaluation, at its noise level; None for nothing.
        repeats: how often each jump is taken in all.
        jump: how many steps it is long.
        low, high: noise levels between which jumps may start, half-open.
        returns: whether the step at hand ends a jump; see `at`.
    """

    solver: Solver
    known: Measurement | None
    repeats: int = static()
    jump: int = static()
    low: float = static()
    high: float = static()
    returns: bool = static(default=False)

    @property
    def order(self) -> int:
        """Order of the solver inside."""
        return self.solver.order

    @property
    def renoises(self) -> bool:  # type: ignore[override]
        """Whether the solver inside says what it does with another noise direction."""
        return self.solver.renoises

    def tables(self, sigmas):
        """Return each step's `Table`."""
        own, steps = self.solver.tables(sigmas), len(sigmas) - 1
        rows = np.arange(steps)[:, None] + np.arange(1 - self.jump, 1)
        rows = np.maximum(rows, 0)
        start, end = sigmas[:-1][rows], sigmas[1:][rows]
        inside = jax.tree.map(lambda table: np.asarray(table)[rows], own)
        rise = np.sqrt(np.maximum(start[:, 0] ** 2 - sigmas[1:] ** 2, 0))
        return Table(own, start, end, inside, rise)

    def init(self, x):
        return self.solver.init(x)

    def at(self, step, sigmas):
        """Return the solver of a step; jumps end at the last level above 0, and every so often."""
        last = len(sigmas) - 2 - (sigmas[-1] == 0)
        first = step + 1 - self.jump
        returns = (
            self.repeats > 1
            and first >= 0
            and step <= last
            and (last - step) % self.jump == 0
            and bool(self.low < sigmas[first] <= self.high)
        )
        return replaced(self, returns=returns)

    def step(self, denoise, x, interval, state, key):
        table = interval.table
        once = Interval(interval.start, interval.end, table.own)
        x = self._with_known(x, interval.start, fold_each(key, KNOWN))
        x, guided, state = self.solver.step(denoise, x, once, state, key)
        if self.returns:
            x, state = self._again(denoise, x, table, state, key)
        # What was measured is exact at the end.
        if self.known is not None:
            x = jnp.where(interval.end > 0, x, x + self.known.correction(x))
        return x, guided, state

    def _again(self, denoise, x, table, state, key):
        """Take the steps of the jump anew, ``repeats - 1`` times."""
        times = self.repeats - 1
        rises = jnp.zeros(self.jump, x.dtype).at[0].set(table.rise)
        rows = (table.start, table.end, table.inside, rises)
        rows = jax.tree.map(lambda row: jnp.tile(row, (times,) + (1,) * (row.ndim - 1)), rows)

        def body(denoise, carry, row):
            x, state = carry
            number, (start, end, inside, rise) = row
            drawn = fold_each(key, ROWS + number)
            back, known, forth = (fold_each(drawn, part) for part in range(EACH))
            x = x + rise * normal_like(back, x)
            x = self._with_known(x, start, known)
            denoise.end = end
            x, _, state = self.solver.step(denoise, x, Interval(start, end, inside), state, forth)
            return (x, state), None

        numbers = jnp.arange(times * self.jump)
        (x, state), _ = denoise.scan(body, (x, state), (numbers, rows))
        return x, state

    def _with_known(self, x, sigma, key):
        if self.known is None:
            return x
        operator = self.known.operator
        noisy = operator.pinv(self.known.like(x)) + sigma * operator.projected(normal_like(key, x))
        return x - operator.projected(x) + noisy


@register("solver")
def recur(
    solver: Solver,
    repeats: int = 4,
    jump: int = 1,
    low: float = 0.0,
    high: float = math.inf,
) -> Travel:
    """Return a solver that takes its steps several times, with noise added in between.

    After ``jump`` steps noise takes the sample back to where they began, and they are taken again,
    with the rule that holds at the last of them, ``repeats`` times in all. Jumps end at the last
    noise level above 0 and every ``jump`` steps before it. Wrong guidance of one step is so mended
    by the next: what UGD, FreeDoM, TFG and DDNM do around their rules.

    Args:
        solver: `euler` or `ancestral`, of one evaluation a step.
        repeats: how often each jump is taken; 1 is the solver itself.
        jump: steps of a jump.
        low, high: only jumps that start at noise levels in ``(low, high]`` are repeated.

    Raises:
        ValueError: another solver, numbers that are no whole numbers from 1, or no levels.

    Source: Lugmayr et al., arXiv 2201.09865, section 4.2.
    """
    return Travel(_inside("recur", solver), None, *_checked("recur", repeats, jump, low, high))


@register("solver")
def repaint(
    operator: Operator,
    measurement: Any,
    solver: Solver = ancestral(),  # noqa: B008  (immutable)
    repeats: int = 10,
    jump: int = 10,
) -> Travel:
    """Return RePaint: what is known is put in at every noise level, and steps are taken anew.

    Before each evaluation the measured part of x is replaced by ``A^+ y + sigma A^+ A z``, z drawn
    anew; after each ``jump`` steps noise takes the sample back, so that the rest becomes that which
    fits. With many repeats it samples the posterior, if the solver samples the data; with one it is
    replacement, which is biased. The measurement comes out exactly. It needs no rule.

    The defaults on 250 steps are the paper's: 2410 evaluations.

    Args:
        operator: A, of `guidance.operators`; the paper's is a mask.
        measurement: y, one for all samples or one a sample ``[batch, ...]``.
        solver: `ancestral` or `euler`.
        repeats: how often each jump is taken in all; 1 is replacement.
        jump: steps of a jump.

    Raises:
        ValueError: another solver, numbers that are no whole numbers from 1, or a measurement that
            is not finite; when sampling, shapes that do not fit.

    Source: Lugmayr et al., arXiv 2201.09865, algorithm 1.
    """
    known = measured("repaint", operator, measurement)
    counts = _checked("repaint", repeats, jump, 0.0, math.inf)
    return Travel(_inside("repaint", solver), known, *counts)


def _inside(owner: str, solver: Solver) -> Solver:
    if not isinstance(solver, (Euler, EulerAncestral)):
        raise ValueError(
            f"samplers.{owner}: goes around a solver that evaluates once a step and remembers "
            f"nothing, euler() or ancestral(), got {solver!r}"
        )
    return solver


def _checked(
    owner: str, repeats: int, jump: int, low: float, high: float
) -> tuple[int, int, float, float]:
    for name, value in (("repeats", repeats), ("jump", jump)):
        if isinstance(value, bool) or value != int(value) or value < 1:
            raise ValueError(
                f"samplers.{owner}: {name} must be a whole number from 1, got {value!r}"
            )
    if not 0 <= low < high:
        raise ValueError(f"samplers.{owner}: need 0 <= low < high, got low={low}, high={high}")
    return int(repeats), int(jump), float(low), float(high)
