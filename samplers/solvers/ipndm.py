"""Improved pseudo numerical methods: Adams and Bashforth's weights, with Euler's warm-up."""

import dataclasses
from typing import ClassVar

import numpy as np

from ...core.registry import register
from ..checks import checked_order, switches
from .multistep import EQUAL_STEPS, MOST, Multistep, adams_bashforth


@dataclasses.dataclass(frozen=True)
class Ipndm(Multistep):
    """The weights of equal steps, whatever the steps are."""

    name: ClassVar[str] = "ipndm"

    @property
    def order(self):
        """Order of convergence: at most 2, unless the steps are equal."""
        return min(self.directions, 2)

    def weights(self, sigmas):
        """Return each step's length times the weights of equal steps."""
        weights = np.zeros((len(sigmas) - 1, self.directions))
        for i in range(len(weights)):
            known = min(i + 1, self.directions)
            weights[i, :known] = EQUAL_STEPS[known]
        return np.diff(sigmas)[:, None] * weights


@dataclasses.dataclass(frozen=True)
class IpndmV(Multistep):
    """The weights of the schedule's own steps.

    Attributes:
        as_published: reproduce the slips of the reference implementation.
    """

    name: ClassVar[str] = "ipndm_v"
    as_published: bool = False

    @property
    def order(self):
        """Order of convergence: at most 2 as published."""
        return min(self.directions, 2) if self.as_published else self.directions

    def weights(self, sigmas):
        """Return the integrals of the Lagrange basis, or the reference's slips of them."""
        if self.as_published:
            return _published(sigmas, self.directions)
        return adams_bashforth(sigmas, self.directions)


def _published(sigmas: np.ndarray, order: int) -> np.ndarray:
    """Return the weights as the reference implementation has them.

    They are sums of divided differences. The second one's share lacks the brackets that would
    have the ratio of steps multiply all of it, one of the third's terms has the wrong sign, and
    its last weight the ratio of steps that is one too new: those do not even sum to zero.
    """
    steps = np.diff(sigmas)
    weights = np.zeros((len(steps), order))
    for i, h in enumerate(steps):
        known = min(i + 1, order)
        a, b, c = (steps[i - k] if known > k else np.nan for k in (1, 2, 3))
        row = weights[i]
        row[0] = 1.0
        if known >= 2:
            row[:2] += h / (2 * a) * np.array([1.0, -1.0])
        if known >= 3:
            near = h / (3 * (h + a))
            share = (1 - near * h * (h + a) / (a * (a + b))) / 2
            row[:3] += share * np.array([1.0, -1 - a / b, a / b])
        if known == 4:
            far = (1 - h / (2 * (h + a))) * h / (6 * (h + a + b))
            ratio = h * (h + a) * (h + a + b) / (a * (a + b) * (a + b + c))
            share = ((1 - near) / 2 + far) * ratio
            q = a * (a + b) / (b * (b + c))
            third = np.array([1.0, -1 - a / b - q, a / b + q * (1 + b / c), -q * a / b])
            row += share * third
    return steps[:, None] * weights


@register("solver")
def ipndm(order: int = 4) -> Ipndm:
    """Return iPNDM: the multistep method with the weights of equal steps.

    ``x' = x + (sigma' - sigma) sum_j w_j d_j`` with w of order 4 ``(55, -59, 37, -9) / 24``, and
    lower orders in the first steps. Of the stated order on equal steps in sigma; on others of
    second order at most, with small errors all the same. A step to sigma = 0 is Euler's.

    Args:
        order: 1 (Euler's method) to 4.

    Raises:
        ValueError: another order; when sampling, fewer steps than the order.

    Source: Zhang and Chen, arXiv 2204.13902, section 3; the weights of Liu et al.,
    arXiv 2202.09778, eq. 12.
    """
    return Ipndm(checked_order("ipndm", order, MOST))


@register("solver")
def ipndm_v(order: int = 4, *, as_published: bool = False) -> IpndmV:
    """Return iPNDM with the weights of the schedule's own steps.

    The same method as ``lms(order)`` and ``deis(order, mode="rhoab")`` unless ``as_published``. A
    step to sigma = 0 is Euler's.

    Args:
        order: 1 (Euler's method) to 4.
        as_published: with the slips of the reference implementation at orders 3 and 4, for
            comparing with its published scores; second order then.

    Raises:
        ValueError: another order; when sampling, fewer steps than the order.

    Source: Zhou et al., arXiv 2312.00094, the solver their implementation adds to iPNDM.
    """
    switches("ipndm_v", as_published=as_published)
    return IpndmV(checked_order("ipndm_v", order, MOST), as_published)
