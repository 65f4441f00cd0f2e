"""DPM-Solver (Lu et al., arXiv 2206.00927): the noise direction extrapolated in log sigma."""

import dataclasses
from typing import ClassVar

import numpy as np

from ...core.registry import register
from ..checks import checked_order, switches
from .dpmpp import less_curved, lowered
from .euler import Euler, euler
from .exponential import integrals, log_steps, orders, past_nodes
from .multistep import Multistep
from .singlestep import MOST, Singlestep, slope_weight, without_use
from .solver import Solver, direction


@dataclasses.dataclass(frozen=True)
class DpmSolverSinglestep(Singlestep):
    """DPM-Solver-2 and -3: the noise direction extrapolated within the step."""

    name: ClassVar[str] = "dpm_solver"

    def weight(self, sigma, h, node, slope):
        return sigma * np.exp(-h) * slope_weight(h, node, slope, -1)

    def prediction(self, x, guided, sigma):
        return direction(x, guided, sigma)


@dataclasses.dataclass(frozen=True)
class DpmSolverMultistep(Multistep):
    """The noise direction as a polynomial in log sigma; a step to sigma = 0 is Euler's.

    Attributes:
        as_published: take order 2 halfway, and halve the curvature of order 3.
        lower_order_final: let the last steps use no more directions than there are steps left.
    """

    name: ClassVar[str] = "dpm_solver"
    as_published: bool = False
    lower_order_final: bool = False  # type: ignore[misc]  # of the class in others

    @property
    def order(self):
        """Order of convergence given starting values of that order; at most 2 as published."""
        return lowered(self.directions, self.as_published or self.lower_order_final)

    def weights(self, sigmas):
        """Return integrals of the Lagrange basis in log sigma."""
        h = log_steps(sigmas)
        weights = np.zeros((len(h), self.directions))
        each = orders(sigmas, self.directions, lower_order_final=self.lower_order_final)
        for i, order in enumerate(each):
            if order > 1:
                weights[i, 1:order] = sigmas[i + 1] * self._beyond(
                    h[i], past_nodes(sigmas, i, order)
                )
        weights[:, 0] = np.diff(sigmas) - weights[:, 1:].sum(axis=1)
        return weights

    def _beyond(self, h, nodes):
        if self.as_published and len(nodes) == 2:
            return slope_weight(h, nodes[1], "midpoint", -1)
        weights = integrals(h, nodes, -1)
        return (less_curved(weights, nodes) if self.as_published else weights)[1:]


@register("solver")
def dpm_solver(
    order: int,
    *,
    singlestep: bool = True,
    as_published: bool = False,
    lower_order_final: bool = False,
    evaluations: int | None = None,
) -> DpmSolverSinglestep | DpmSolverMultistep | Euler:
    """Return DPM-Solver: the noise direction extrapolated in log sigma.

    With ``h = log(sigma/sigma')`` and d the noise direction, singlestep order 2 is
    ``x' = x + (sigma' - sigma) d_half`` with d_half where Euler's step leads to at
    ``sigma e^(-h/2)`` (the same as `dpm_2`); order 3 has evaluations a third and two thirds of the
    way, ``x' = x + (sigma' - sigma) d - (3/2) sigma' ((e^h - 1)/h - 1) (d_far - d)`` with d_far the
    farther one. Multistep is ``x' = x - sigma' int_0^h e^(h-u) d(u) du``, d(u) the line or parabola
    through the last directions; the first steps are of lower orders, so that order 3 needs better
    starting values than that, or shows while the rest dominates. A step to 0 is Euler's.

    `dpmpp` extrapolates D instead, which guidance at high scales disturbs less.

    Args:
        order: 1 (`euler`) to 3.
        singlestep: take ``order`` evaluations a step and remember nothing, instead of one
            evaluation a step and the directions of earlier ones.
        as_published: of multistep, the reference implementation's weights: order 2 takes the
            line's value halfway for all of the step, order 3 lacks a factor of 2 and is of second
            order.
        lower_order_final, evaluations: as `dpmpp` takes them.

    Raises:
        ValueError: another order, no positive integer of evaluations, or an option that the
            asked-for solver has no use for; when sampling, fewer steps than a multistep order, or
            another number of steps than the budget's.

    Source: Lu et al., arXiv 2206.00927; multistep as in the authors' implementation.
    """
    order = checked_order("dpm_solver", order, MOST)
    switches(
        "dpm_solver",
        singlestep=singlestep,
        as_published=as_published,
        lower_order_final=lower_order_final,
    )
    without_use("dpm_solver", order, singlestep, lower_order_final, evaluations)
    if as_published and (singlestep or order == 1):
        raise ValueError(
            "samplers.dpm_solver: as_published is of multistep orders 2 and 3, which the reference "
            "implementation has otherwise: leave it out"
        )
    if order == 1:
        return euler()
    if singlestep:
        return DpmSolverSinglestep(order, evaluations)
    # By name: the base class's variable of this name gives its field the first place.
    return DpmSolverMultistep(order, as_published=as_published, lower_order_final=lower_order_final)


@register("solver")
def dpm_2() -> Solver:
    """Return DPM-Solver-2: ``2 * steps - 1`` evaluations on a schedule that ends in 0.

    Euler's step to ``sqrt(sigma sigma')``, and the direction there for the whole step:
    ``x' = x + (sigma' - sigma) d_half``. The same as ``dpm_solver(2)``. A step to 0 is Euler's.

    Source: Lu et al., arXiv 2206.00927, order 2; the solver of this name in k-diffusion.
    """
    return dpm_solver(2)
