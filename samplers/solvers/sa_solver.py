"""SA-Solver: stochastic Adams methods with a chosen share of noise (Xue et al., 2309.05019)."""

from collections.abc import Sequence

import numpy as np

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..checks import checked_order, plain, switches
from .dpmpp_sde import fresh_noise
from .exponential import ExponentialMultistep, Table, integrals, log_steps, orders, past_nodes
from .multistep import MOST
from .solver import require_steps


@pytree
class SaSolver(ExponentialMultistep):
    """One evaluation a step: the prediction that corrects a step also serves the next one.

    Attributes:
        predictor_order: how many predictions a step looks at.
        corrector_order: how many, beside the one at the step's end, correct it; 0 is none.
        few_step: weigh the slope of two predictions by ``h^2/2``.
        tau: how much noise; 1 is the reverse SDE of the diffusion.
        low, high: steps from noise levels in ``(low, high]`` have tau, others none.
    """

    past: int = static()
    predictor_order: int = static()
    corrector_order: int = static()
    few_step: bool = static()
    tau: float
    low: float
    high: float

    @property
    def order(self) -> int:
        """Order of convergence at ``tau = 0``, given starting values of that order."""
        if not self.corrector_order:
            return self.predictor_order
        return min(self.predictor_order, self.corrector_order) + 1

    def tables(self, sigmas):
        """Return each step's `Table`; what corrects a step is in the row of the next one.

        Raises:
            ValueError: too few steps for one to combine as many predictions as asked for.
        """
        require_steps("sa_solver", max(self.predictor_order, self.corrector_order), sigmas)
        start, h = sigmas[:-1], log_steps(sigmas)
        share = np.where((start > self.low) & (start <= self.high), self.tau**2, 0.0)
        # Of this prediction, the one before, ...; those of the prediction at the end are implied.
        predicted, corrected = np.zeros((2, len(h), self.past + 1))
        predictors, correctors = (
            orders(sigmas, order) for order in (self.predictor_order, self.corrector_order)
        )
        for i in np.flatnonzero(sigmas[1:]):
            nodes = past_nodes(sigmas, i, predictors[i])
            predicted[i, : len(nodes)] = self._weights(h[i], nodes, 1 + share[i])
            nodes = np.append(h[i], past_nodes(sigmas, i, correctors[i]))
            corrected[i, : len(nodes) - 1] = self._weights(h[i], nodes, 1 + share[i])[1:]
        # Weights of both add up to the same number and their noise is the same: x corrected
        # exceeds x predicted by differences of predictions from the newest.
        correct = np.roll((corrected - predicted)[:, : self.past], 1, axis=0)
        correct[0] = 0
        return Table(
            np.exp(-(1 + share) * h),
            predicted[:, 1:],
            fresh_noise(sigmas, share),
            correct if self.corrector_order else None,
        )

    def _weights(self, h: float, nodes: Sequence[float] | np.ndarray, k: float) -> np.ndarray:
        weights = integrals(h, nodes, k)
        if self.few_step and len(nodes) == 2:
            slope = np.array([1.0, -1.0]) / (nodes[0] - nodes[1])
            weights += (k * h**2 / 2 - weights @ nodes) * slope
        return weights


@register("solver")
def sa_solver(
    predictor_order: int = 2,
    corrector_order: int = 1,
    tau: float = 1.0,
    tau_range: tuple[float, float] | None = None,
    *,
    few_step: bool = False,
) -> SaSolver:
    """Return SA-Solver in data prediction, one evaluation a step.

    With ``h = log(sigma/sigma')``, ``k = 1 + tau^2`` and P a polynomial through predictions in log
    sigma, ``x' = e^(-kh) x + k int_0^h e^(-k(h-u)) P(u) du + sigma' sqrt(1 - e^(-2 tau^2 h)) z``.
    The predictor's P goes through the last predictions; the corrector's through the one at the
    predicted x' as well, and with the same z. Lower orders in the first steps; a step to 0
    returns D.

    Args:
        predictor_order: predictions in the predictor's P, 1 to 4.
        corrector_order: predictions in the corrector's P beside the one at x', 1 to 4, or 0 for
            no corrector. With tau = 0 the order of convergence is
            ``min(predictor_order, corrector_order) + 1``: one less than the predictor's does it
            no harm. (Implementations that count the one at x' call 1 an order of 2.)
        tau: 0 adds no noise, 1 is the reverse SDE of the diffusion; more noise wants more steps.
        tau_range: ``(low, high)``, the noise levels ``low < sigma <= high`` from which steps have
            tau, those from others none; None for all.
        few_step: as the public implementations, weigh the slope through two predictions by
            ``k h^2/2`` instead of its integral. They agree to third order in h.

    Raises:
        ValueError: other orders, tau negative or not finite, or no such range; when sampling,
            fewer steps than an order.

    Source: Xue et al., arXiv 2309.05019.
    """
    predictor_order = checked_order("sa_solver", predictor_order, MOST)
    if corrector_order != 0:
        corrector_order = checked_order("sa_solver", corrector_order, MOST)
    plain("sa_solver", tau=tau)
    if tau < 0:
        raise ValueError(f"samplers.sa_solver: need tau >= 0, got {tau}; 0 adds no noise")
    low, high = (0.0, np.inf) if tau_range is None else map(float, tau_range)
    if not 0 <= low < high:
        raise ValueError(
            f"samplers.sa_solver: tau_range is (low, high) in sigma with 0 <= low < high, got "
            f"{tau_range}; tau=0 adds no noise anywhere"
        )
    switches("sa_solver", few_step=few_step)
    # Correcting a step takes back the weights of all that it looked at.
    past = max(predictor_order, corrector_order) if corrector_order else predictor_order - 1
    return SaSolver(
        past,
        predictor_order,
        int(corrector_order),
        few_step,
        float(tau),
        low,
        float(high),
    )
