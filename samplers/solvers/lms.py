"""The linear multistep method in sigma (Katherine Crowson's k-diffusion)."""

import dataclasses
from typing import ClassVar

from ...core.registry import register
from ..checks import checked_order
from .multistep import MOST, Multistep, adams_bashforth


@dataclasses.dataclass(frozen=True)
class Lms(Multistep):
    """Adams and Bashforth's method on the schedule's own steps.

    Attributes:
        lower_order_final: whether a step to sigma = 0 is Euler's.
    """

    name: ClassVar[str] = "lms"
    lower_order_final: bool = True  # type: ignore[misc]  # of the class in others

    def weights(self, sigmas):
        """Return integrals of the Lagrange basis in sigma."""
        return adams_bashforth(sigmas, self.directions)


@register("solver")
def lms(order: int = 4, *, lower_order_final: bool = True) -> Lms:
    """Return the linear multistep method: the direction extrapolated as a polynomial in sigma.

    ``x' = x + sum_j w_j d_j``, ``w_j = int_sigma^sigma' l_j(s) ds``, l_j the Lagrange basis at this
    noise level and the ``order - 1`` before; the first steps have lower orders. The same method as
    ``deis(order, mode="rhoab")``. The first step's error is of second order: beyond order 2, the
    stated order needs better starting values than that, or shows while the rest dominates.

    Args:
        order: 1 (Euler's method) to 4.
        lower_order_final: whether a step to sigma = 0 is Euler's, which returns the prediction
            itself. The published method extrapolates there too.

    Raises:
        ValueError: another order; when sampling, fewer steps than the order.

    Source: Karras et al., arXiv 2206.00364, for the equation in sigma; Adams and Bashforth's
    method in the form of k-diffusion's ``sample_lms``.
    """
    return Lms(checked_order("lms", order, MOST), lower_order_final)
