"""DPM-Solver++ (Lu et al., arXiv 2211.01095); its 2M also in the form CFG++ gives it."""

import dataclasses
from typing import ClassVar

import numpy as np

from ...core.registry import register
from ..checks import checked_order, switches
from .euler import Euler, euler
from .exponential import ExponentialMultistep, Table, integrals, log_steps, orders, past_nodes
from .singlestep import MOST, SLOPES, Singlestep, singlestep_orders, slope_weight, without_use
from .solver import require_steps, source

DIFFERENCES = ("mixed", "consistent")


@dataclasses.dataclass(frozen=True)
class DpmppMultistep(ExponentialMultistep):
    """What multistep DPM-Solver++ shares; one evaluation a step, to sigma = 0 Euler's.

    Attributes:
        slope: what a step of order 2 takes for the integral of D's slope; see `slope_weight`.
        lower_order_final: let the last steps use no more predictions than there are steps left.
        as_published: halve the curvature of order 3.
    """

    as_published: ClassVar[bool] = False
    slope: str = "midpoint"
    lower_order_final: bool = False

    @property
    def order(self) -> int:
        """Order of convergence given starting values of that order."""
        return lowered(self.past + 1, self.as_published or self.lower_order_final)

    def tables(self, sigmas):
        """Return each step's `Table`."""
        require_steps("dpmpp", self.past + 1, sigmas)
        h = log_steps(sigmas)
        ahead = np.zeros((len(h), self.past))
        each = orders(sigmas, self.past + 1, lower_order_final=self.lower_order_final)
        for i, order in enumerate(each):
            nodes = past_nodes(sigmas, i, order)
            if order == 2:
                ahead[i, 0] = slope_weight(h[i], nodes[1], self.slope)
            elif order == 3:
                weights = integrals(h[i], nodes)
                ahead[i] = (less_curved(weights, nodes) if self.as_published else weights)[1:]
        return Table(np.exp(-h), ahead)


@dataclasses.dataclass(frozen=True)
class Dpmpp2m(DpmppMultistep):
    """Second order; the first step is Euler's.

    Attributes:
        difference: which difference of predictions stands for D's slope.
    """

    renoises: ClassVar[bool] = True
    past: int = 1
    difference: str = "mixed"

    def anchor(self, guided):
        return guided.denoised if self.difference == "mixed" else source(guided)


@dataclasses.dataclass(frozen=True)
class Dpmpp3m(DpmppMultistep):
    """Third order, second as published; the first step is Euler's, the next is 2M's."""

    past: int = 2
    as_published: bool = False  # type: ignore[misc]  # of the class in others


@dataclasses.dataclass(frozen=True)
class DpmppSinglestep(Singlestep):
    """2S and 3S: D extrapolated within the step."""

    name: ClassVar[str] = "dpmpp"

    def weight(self, sigma, h, node, slope):
        del sigma
        return slope_weight(h, node, slope)

    def prediction(self, x, guided, sigma):
        del x, sigma
        return guided.denoised


def less_curved(weights: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Return weights of a parabola whose term of second degree counts half.

    The reference implementations of the third order lack its factor of 2, the factorial of the
    Taylor series their divided difference is put into.

    Args:
        weights: integrals of the Lagrange basis at three nodes, of which the first is 0.
        nodes: where the predictions are known.
    """
    difference = 1 / np.array([np.prod(one - np.delete(nodes, j)) for j, one in enumerate(nodes)])
    return weights - difference * (weights @ nodes**2) / 2


def lowered(order: int, lower: bool) -> int:
    """Return an order of convergence that some steps of lower order cap at 2."""
    return min(order, 2) if lower else order


@register("solver")
def dpmpp(
    order: int = 2,
    singlestep: bool = False,
    as_published: bool = False,
    *,
    difference: str = "mixed",
    slope: str = "midpoint",
    lower_order_final: bool = False,
    evaluations: int | None = None,
) -> Dpmpp2m | Dpmpp3m | DpmppSinglestep | Euler:
    """Return DPM-Solver++: D extrapolated in log sigma, the rest of the flow integrated exactly.

    With ``h = log(sigma/sigma')`` and ``r = h_before/h``, multistep order 2 (2M) is
    ``x' = D + e^-h (x - S) + (1 - e^-h) (D - S_before) / (2 r)``, where S is D, or what CFG++
    renoises from. Multistep order 3 (3M) integrates the parabola through three predictions,
    ``x' = e^-h x + int_0^h e^(u-h) D(u) du``; its first steps are of orders 1 and 2, so that the
    stated order needs better starting values than that, or shows while the rest dominates.
    Singlestep order 2 (2S) is ``x' = e^-h x + (1 - e^-h) D_half`` with D_half where Euler's step
    leads to at ``sigma e^(-h/2)``; order 3 (3S) has evaluations a third and two thirds of the way.
    A step to 0 is Euler's.

    Args:
        order: 1 (`euler`) to 3.
        singlestep: take ``order`` evaluations a step and remember nothing, instead of one
            evaluation a step and the predictions of earlier ones.
        as_published: multistep order 3 as the reference implementation has it, which lacks a
            factor of 2: second order, for comparing with its published scores.
        difference: of multistep order 2, matters for CFG++ alone. ``mixed`` is the published
            ``D - S_before``, which contains a share of the push and so guides further;
            ``consistent`` is ``S - S_before``, an estimate of S's slope.
        slope: of steps of order 2. ``midpoint``, the formulas above, takes D halfway for all of
            the step; ``taylor`` integrates the line through both predictions.
        lower_order_final: let the last steps of a multistep solver use no more predictions than
            there are steps left, as the reference implementations do on short schedules; second
            order then. A step to 0 is of first order anyway.
        evaluations: of a singlestep solver, a budget to spend in steps of the given order and, at
            the end, lower ones (`singlestep_orders`); the schedule has to have as many steps. A
            last step of order 2 to 0 leaves one evaluation over.

    Raises:
        ValueError: another order, difference or slope, no positive integer of evaluations, or an
            option that the asked-for solver has no use for; when sampling, fewer steps than a
            multistep order, or another number of steps than the budget's.

    Source: Lu et al., arXiv 2211.01095, algorithms 1 and 2 (orders 2); order 3 as in the authors'
    implementation; with CFG++: Chung et al., arXiv 2406.08070.
    """
    order = checked_order("dpmpp", order, MOST)
    switches(
        "dpmpp",
        singlestep=singlestep,
        as_published=as_published,
        lower_order_final=lower_order_final,
    )
    if difference not in DIFFERENCES:
        raise ValueError(
            f"samplers.dpmpp: difference is {' or '.join(DIFFERENCES)}, got {difference!r}"
        )
    if slope not in SLOPES:
        raise ValueError(f"samplers.dpmpp: slope is {' or '.join(SLOPES)}, got {slope!r}")
    without_use("dpmpp", order, singlestep, lower_order_final, evaluations)
    if as_published and (order != 3 or singlestep):
        raise ValueError(
            "samplers.dpmpp: as_published is of multistep order 3, the only one that the reference "
            "implementation has otherwise: leave it out"
        )
    if difference != "mixed" and (order != 2 or singlestep):
        raise ValueError(
            "samplers.dpmpp: difference is of multistep order 2, the one that takes CFG++"
        )
    if slope != "midpoint" and 2 not in _used(order, singlestep, evaluations):
        raise ValueError(
            "samplers.dpmpp: slope is of steps of order 2, of which there are none: leave it out"
        )
    if order == 1:
        return euler()
    if singlestep:
        return DpmppSinglestep(order, evaluations, slope)
    if order == 2:
        return Dpmpp2m(slope=slope, lower_order_final=lower_order_final, difference=difference)
    return Dpmpp3m(slope=slope, lower_order_final=lower_order_final, as_published=as_published)


def _used(order, singlestep, evaluations):
    """Return the orders of the steps that a solver may take."""
    if not singlestep:
        return range(1, order + 1)
    return [order] if evaluations is None else singlestep_orders(evaluations, order)
