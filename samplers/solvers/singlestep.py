"""Exponential Runge-Kutta steps of the DPM-Solvers: several evaluations a step, no memory.

In log sigma the flow is linear but for a prediction: D, or the noise direction. Every stage takes
Euler's step, which solves the linear part exactly, and adds a multiple of how much the prediction
has changed by the stage before. Families differ in what they predict.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..checks import checked_order, whole
from .exponential import integrals, log_steps
from .solver import Memoryless, direction, first_of

MOST = 3
SLOPES = ("midpoint", "taylor")
# Where in the step, in log sigma, the evaluations after the first are, by order.
FRACTIONS = {2: (1 / 2,), 3: (1 / 3, 2 / 3)}


class Table(NamedTuple):
    """A step's constants; zero for stages that steps of lower order lack.

    Attributes:
        levels: noise levels of the evaluations after the first.
        beyond: weight, in the stage that follows it, of the difference between each of those
            predictions and the first.
    """

    levels: Float[Array | np.ndarray, " *steps stages"]
    beyond: Float[Array | np.ndarray, " *steps stages"]


class Stage(NamedTuple):
    """An evaluation within a step: its number, its noise level, and of the stage to the next point
    the noise level and the weight of the prediction's change since the first.
    """

    number: Int[Array, ""]
    level: Float[Array, ""]
    to: Float[Array, ""]
    beyond: Float[Array, ""]


class First(NamedTuple):
    """What the later stages of a step need of its first evaluation."""

    denoised: Float[Array, " batch *shape"]
    direction: Float[Array, " batch *shape"]
    predicted: Float[Array, " batch *shape"]


@dataclasses.dataclass(frozen=True)
class Singlestep(Memoryless):
    """What singlestep solvers share: a family defines ``name``, ``prediction`` and ``weight``.

    ``prediction(x, guided, sigma)`` is what is extrapolated, ``weight(sigma, h, node, slope)`` the
    weight of its change up to ``node`` in a stage of length ``h`` from ``sigma``.

    As many evaluations a step as its order, so that one is Euler's; a step to sigma = 0 is.

    Attributes:
        stages: evaluations in a step.
        evaluations: a budget, over which the orders of the steps are `singlestep_orders`; None
            for steps of one order.
        slope: what a step of order 2 takes for the integral of a slope; see `slope_weight`.
    """

    name: ClassVar[str]
    stages: int
    evaluations: int | None = None
    slope: str = "midpoint"

    @property
    def order(self) -> int:
        """Order of convergence; one step of order p leaves an error of order p + 1."""
        if self.evaluations is None:
            return self.stages
        return min(self.stages, 1 + min(singlestep_orders(self.evaluations, self.stages)))

    def orders(self, sigmas: np.ndarray) -> np.ndarray:
        """Return the order of each step.

        Raises:
            ValueError: other than the number of steps that the budget is spent in.
        """
        steps = len(sigmas) - 1
        result = [self.stages] * steps
        if self.evaluations is not None:
            result = singlestep_orders(self.evaluations, self.stages)
            if len(result) != steps:
                raise ValueError(
                    f"samplers.{self.name}: {self.evaluations} evaluations are spent in "
                    f"{len(result)} steps of orders {', '.join(map(str, result))}, but the "
                    f"schedule has {steps}: ask it for {len(result)} steps, which are "
                    f"{len(result) + 1} noise levels with the last"
                )
        return np.where(sigmas[1:] == 0, 1, result)

    def tables(self, sigmas):
        """Return each step's `Table`."""
        h = log_steps(sigmas)
        levels, beyond = np.zeros((2, len(h), self.stages - 1))
        for i, order in enumerate(self.orders(sigmas)):
            slope = self.slope if order == 2 else "taylor"
            nodes = h[i] * np.array([*FRACTIONS.get(order, ()), 1.0])
            for n, (node, length) in enumerate(zip(nodes[:-1], nodes[1:], strict=True)):
                levels[i, n] = sigmas[i] * np.exp(-node)
                beyond[i, n] = self.weight(sigmas[i], length, node, slope)
        return Table(levels, beyond)

    def step(self, denoise, x, interval, state, key):
        del key
        table = interval.table
        # A budget's table has columns for its longest steps.
        levels, beyond = (column[: self.stages - 1] for column in table)
        rows = Stage(
            jnp.arange(self.stages),
            jnp.concatenate([interval.start[None], levels]),
            jnp.append(levels, interval.end),
            # The first prediction has not changed from itself.
            jnp.concatenate([jnp.zeros_like(interval.start)[None], beyond]),
        )

        def stage(denoise, carry, row):
            point, begun = carry
            guided = denoise(point, row.level)
            predicted = self.prediction(point, guided, row.level)
            found = First(guided.denoised, direction(point, guided, row.level), predicted)
            begun = jax.tree.map(
                lambda new, old: jnp.where(row.number == 0, new, old), found, begun
            )
            push = row.beyond * (predicted - begun.predicted)
            return (begun.denoised + row.to * begun.direction + push, begun), guided

        begun = First(*(jnp.zeros_like(x),) * 3)
        (x, _), guided = denoise.scan(stage, (x, begun), rows)
        return x, first_of(guided), state

    def at(self, step, sigmas):
        order = self.orders(sigmas)[step]
        # The solver itself where it can be: neighbours that are one object share a scan.
        if order == self.stages:
            return self
        return dataclasses.replace(self, stages=int(order), evaluations=None)


def singlestep_orders(evaluations: int, order: int) -> list[int]:
    """Return the orders of the steps that spend a budget of evaluations, one an order.

    Steps of the highest order, and at the end what is left: for order 3 ``3 ... 3 2 1``,
    ``3 ... 3 1`` or ``3 ... 3 2``, ``evaluations // 3 + 1`` steps in all; for order 2 ``2 ... 2``
    or ``2 ... 2 1``.

    Args:
        evaluations: the budget.
        order: 1 to 3.

    Raises:
        ValueError: no positive integer, or another order.

    Source: Lu et al., arXiv 2206.00927.
    """
    whole("singlestep_orders", evaluations=evaluations)
    order = checked_order("singlestep_orders", order, MOST)
    full, left = divmod(int(evaluations), order)
    if order == MOST and left == 0:
        # A last step of order 1 is what a step to 0 is, and costs no more.
        return [order] * (full - 1) + [2, 1]
    return [order] * full + [left] * (left > 0)


def slope_weight(h: float, node: float, slope: str, k: float | int = 1.0) -> float:
    """Return the weight of how much a prediction changes from this noise level to another.

    Args:
        h: length of the step in log sigma.
        node: distance to the other noise level, negative for an earlier one.
        slope: ``taylor`` integrates the line through both predictions exactly, ``midpoint`` takes
            its value halfway for all of the step.
        k: 1 where D is extrapolated, -1 (and the result to be multiplied by sigma') where the
            noise direction is.
    """
    if slope == "taylor":
        return integrals(h, (0.0, node), k)[1]
    return -np.expm1(-k * h) * h / (2 * node)


def without_use(
    name: str, order: int, singlestep: bool, lower_order_final: bool, evaluations: int | None
) -> None:
    """Refuse options of one kind of solver, singlestep or multistep, for the other.

    Raises:
        ValueError: in the name of ``samplers.name``; also for evaluations that do not count.
    """
    if evaluations is not None:
        whole(name, evaluations=evaluations)
        if not singlestep or order == 1:
            raise ValueError(
                f"samplers.{name}: evaluations is a budget for singlestep solvers of order 2 or "
                f"3; others take one evaluation a step, so ask the schedule for that many steps"
            )
    if lower_order_final and singlestep:
        raise ValueError(
            f"samplers.{name}: lower_order_final is for multistep solvers; singlestep ones end in "
            f"steps of lower order to spend a budget: give evaluations"
        )
