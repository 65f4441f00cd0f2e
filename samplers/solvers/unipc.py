"""UniPC (Zhao et al., arXiv 2302.04867): each evaluation also corrects the step that led there."""

import dataclasses
from typing import ClassVar

import numpy as np

from ...core.registry import register
from ..checks import checked_order, switches
from .dpmpp import lowered
from .exponential import ExponentialMultistep, Table, integrals, log_steps, orders, past_nodes
from .singlestep import MOST, slope_weight
from .solver import require_steps

VARIANTS = ("bh1", "bh2")


@dataclasses.dataclass(frozen=True)
class UniP(ExponentialMultistep):
    """The predictor; one evaluation a step, to sigma = 0 Euler's step.

    Attributes:
        predictions: how many predictions a step combines.
        variant: the weight of a difference of two predictions.
        lower_order_final: let the last steps use no more predictions than there are steps left.
    """

    corrects: ClassVar[bool] = False
    predictions: int
    variant: str = "bh2"
    lower_order_final: bool = False

    @property
    def order(self) -> int:
        """Order of convergence given starting values of that order."""
        return lowered(self.predictions + self.corrects, self.lower_order_final)

    def tables(self, sigmas):
        """Return each step's `Table`."""
        require_steps("unipc", self.predictions, sigmas)
        h = log_steps(sigmas)
        each = orders(sigmas, self.predictions, lower_order_final=self.lower_order_final)
        ahead, correct = np.zeros((2, len(h), self.past))
        for i, order in enumerate(each):
            nodes = past_nodes(sigmas, i, order)
            ahead[i, : order - 1] = self.weights(h[i], nodes)
            if self.corrects and i + 1 < len(h):
                correct[i + 1, :order] = self.correction(h[i], nodes)
        return Table(np.exp(-h), ahead, correct=correct if self.corrects else None)

    def weights(self, h: float, nodes: np.ndarray) -> np.ndarray:
        """Return the weights of predictions beyond the first, in what exceeds Euler's step.

        Args:
            h: length of the step in log sigma.
            nodes: where the predictions are known, the first of them 0.
        """
        if len(nodes) == 2:
            # The one case in which the scale B(h) does not cancel: half of B(h) is published for
            # the solution of one equation.
            if self.variant == "bh1":
                return np.array([h * h / (2 * nodes[1])])
            return np.array([slope_weight(h, nodes[1], "midpoint")])
        return integrals(h, nodes)[1:] if len(nodes) > 2 else np.zeros(0)

    def correction(self, h: float, nodes: np.ndarray) -> np.ndarray:
        """Return the weights of past predictions, beyond that of the step's end, in what UniC adds.

        Args:
            h, nodes: of the step that is corrected.
        """
        *rest, newest = self.weights(h, np.append(nodes, h))
        rest = rest - self.weights(h, nodes)
        return np.array([-newest - rest.sum(), *rest])


@dataclasses.dataclass(frozen=True)
class UniPC(UniP):
    """The predictor, and the corrector of the same number of past predictions and the new one."""

    corrects: ClassVar[bool] = True


@register("solver")
def unipc(
    order: int = 2,
    variant: str = "bh2",
    *,
    corrector: bool = True,
    lower_order_final: bool = False,
) -> UniP:
    """Return UniPC, which takes the evaluation of each step to correct the step before.

    With ``h = log(sigma/sigma')``, a step of the predictor is
    ``e^-h x + int_0^h e^(u-h) D(u) du``, D the polynomial through the last ``order`` predictions;
    once the prediction at its end is known, which is not evaluated anew, the corrector takes the
    step again with that one in the polynomial as well, and the next step starts there. The first
    steps are of lower orders. One evaluation a step; the last step is not corrected, and one to 0
    is Euler's.

    Args:
        order: of the predictor, 1 to 3. The corrector raises the order of convergence by one.
        variant: weight of the difference of two predictions, in the predictor of order 2 and the
            corrector of order 1: of the integral, whose factor is ``1 - e^-h``, ``bh2`` takes
            that factor and ``bh1`` h. Polynomials of higher degree leave no choice.
        corrector: False for the predictor alone, UniP. Of order 2, ``bh2``, that is ``dpmpp(2)``;
            of order 3, ``dpmpp(3)``.
        lower_order_final: let the last steps use no more predictions than there are steps left,
            as the reference implementation does; second order at most then.

    Raises:
        ValueError: another order or variant; when sampling, fewer steps than the order.

    Source: Zhao et al., arXiv 2302.04867.
    """
    order = checked_order("unipc", order, MOST)
    switches("unipc", corrector=corrector, lower_order_final=lower_order_final)
    if variant not in VARIANTS:
        raise ValueError(f"samplers.unipc: variant is {' or '.join(VARIANTS)}, got {variant!r}")
    if corrector:
        return UniPC(order, order, variant, lower_order_final)
    # The corrector alone looks at one prediction more.
    return UniP(order - 1, order, variant, lower_order_final)
