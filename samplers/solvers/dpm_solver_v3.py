"""DPM-Solver-v3 (Zheng et al., arXiv 2310.13268): linear parts estimated from the network.

With ``lambda = -log sigma`` the flow is ``dx/dlambda = D - x = -(l x + f)``, whatever l is, where
``f = (1 - l) x - D``. Three elementwise functions of lambda, the model's statistics, say how much
of it a step may solve exactly: l x, and of f what follows ``f' = s f + b``. The rest is a
polynomial through past predictions. ``l = 1, s = b = 0`` is DPM-Solver++, ``l = 0, s = -1, b = 0``
the same with noise prediction. `samplers.calibrate` estimates better ones.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.registry import register
from ..checks import checked_order, switches
from .exponential import orders, past_nodes
from .quadrature import cumulative
from .solver import Common, require_steps, source
from .statistics import Statistics

MOST = 3
# Schedules are computed in float64 and meet their own ends up to rounding.
ROUNDING = 1e-6


class Table(NamedTuple):
    """A step's constants, one an element of x; those of a step to 0 are zero.

    Attributes:
        rest: ``1 - l`` at the step's start, which makes ``f = rest x - D``.
        keep: of ``x - D``.
        share: of D, beyond the whole of it.
        shift: what the statistics alone say.
        gain: of each past f, newest first, what it would be now.
        ahead: of each past f, less this one; zero for one that is not there yet.
    """

    rest: Float[Array | np.ndarray, " *steps shape"]
    keep: Float[Array | np.ndarray, " *steps shape"]
    share: Float[Array | np.ndarray, " *steps shape"]
    shift: Float[Array | np.ndarray, " *steps shape"]
    gain: Float[Array | np.ndarray, " *steps past shape"]
    ahead: Float[Array | np.ndarray, " *steps past shape"]


@dataclasses.dataclass(frozen=True)
class DpmSolverV3(Common):
    """DPM-Solver-v3, multistep, one evaluation a step; a step to sigma = 0 is Euler's.

    The state is the last f, newest first. New statistics compile nothing.

    Attributes:
        terms: how many predictions a step combines.
        corrector: whether a prediction also corrects the step that led to it.
        pseudo: whether every derivative is taken from as few predictions as it needs.
        lower_order_final: whether the last steps combine no more than there are steps left.
        statistics: what the tables are computed from.
    """

    terms: int
    corrector: bool
    pseudo: bool
    lower_order_final: bool
    # Not compared: the tables alone know them, and are arguments of the compiled program.
    statistics: Statistics = dataclasses.field(compare=False, repr=False)

    @property
    def order(self) -> int:
        """Order of convergence given starting values of that order."""
        return min(self.terms, 2) if self.pseudo else self.terms

    @property
    def past(self) -> int:
        """How many predictions before this one a step looks at."""
        return self.terms if self.corrector and self.terms > 1 else self.terms - 1

    def tables(self, sigmas):
        """Return each step's `Table`, from integrals of the statistics over the step.

        Relative to a step's start i, ``g = e^(S_i - S) f - int_i e^(S_i - S) b`` is what a
        polynomial goes through, L and S the integrals of l and s:
        ``x' = e^(L_i - L') (x - int e^(L - L_i + S - S_i) (g + int_i e^(S_i - S) b))``.

        Raises:
            ValueError: too few steps, or noise levels that the statistics do not cover.
        """
        require_steps("dpm_solver_v3", self.terms, sigmas)
        statistics = self.statistics
        _require_cover(statistics, sigmas)
        steps, lambdas = len(sigmas) - 1, -np.log(sigmas[sigmas > 0])
        l, b, integral_l, integral_s = statistics.curves
        big_s = integral_s(lambdas)
        rest, keep, share, shift = np.zeros((4, steps, *statistics.shape))
        gain, ahead = np.zeros((2, steps, self.past, *statistics.shape))
        # At each noise level: the integral of e^-S b, and the corrector's weights of past f.
        known, correct = np.zeros_like(big_s), np.zeros_like(ahead)
        terms = orders(sigmas, self.terms, lower_order_final=self.lower_order_final)
        for i, (start, end) in enumerate(zip(lambdas[:-1], lambdas[1:], strict=True)):
            u, shares, up_to = cumulative(end - start)
            back = big_s[i] - integral_s(start + u)
            decay = np.exp(integral_l(start + u) - integral_l(end) - back)
            decay = shares.reshape((-1,) + (1,) * (decay.ndim - 1)) * decay
            driven = np.exp(back) * b(start + u)
            known[i + 1] = known[i] + np.exp(-big_s[i]) * np.tensordot(shares, driven, 1)

            nodes = past_nodes(sigmas, i, terms[i])
            weights = np.tensordot(basis(u, nodes, pseudo=self.pseudo), decay, 1)
            kept, whole_weight = np.exp(integral_l(start) - integral_l(end)), decay.sum(axis=0)
            rest[i] = 1 - l(start)
            keep[i] = kept - whole_weight * rest[i]
            share[i] = whole_weight + keep[i] - 1
            ahead[i, : terms[i] - 1] = -weights[1:]
            # A correction of the x this step starts from; f stays what it was.
            ahead[i] += kept * correct[i]
            there = min(i, self.past)
            before = slice(i - there, i)
            gain[i, :there] = np.exp(big_s[i] - big_s[before])[::-1]
            offset = np.exp(big_s[i]) * (known[before] - known[i])[::-1]
            shift[i] = -np.sum(decay * np.tensordot(up_to, driven, 1), axis=0)
            shift[i] -= np.sum(ahead[i, :there] * offset, axis=0)
            if self.corrector and terms[i] > 1 and i + 1 < steps:
                nodes = np.append(end - start, nodes[:-1])
                corrected = np.tensordot(basis(u, nodes), decay, 1)
                correct[i + 1, : terms[i]] = weights
                correct[i + 1, : terms[i] - 1] -= corrected[1:]
                correct[i + 1] *= np.exp(big_s[i] - big_s[i + 1])
        return Table(rest, keep, share, shift, gain, ahead)

    def init(self, x):
        """Return the f before the first step, of no weight while there are none.

        Raises:
            ValueError: samples of another shape than the statistics'.
        """
        if self.statistics.shape not in ((), x.shape[1:]):
            raise ValueError(
                f"samplers.dpm_solver_v3: the statistics are of samples of shape "
                f"{self.statistics.shape}, these have {x.shape[1:]}: calibrate on samples of this "
                f"shape"
            )
        return (jnp.zeros_like(x),) * self.past

    def step(self, denoise, x, interval, state, key):
        del key
        table = interval.table
        guided = denoise(x, interval.start)
        denoised = source(guided)
        newest = table.rest * x - denoised
        # D and what exceeds it: a row of zeros is D to the bit.
        after = denoised + table.keep * (x - denoised) + (table.share * denoised + table.shift)
        for j, past in enumerate(state):
            after = after + table.ahead[j] * (table.gain[j] * past - newest)
        return after, guided, (newest, *state)[: self.past]


@register("solver")
def dpm_solver_v3(
    statistics: Statistics | str | Path,
    order: int = 2,
    *,
    corrector: bool = True,
    pseudo: bool = False,
    lower_order_final: bool = False,
) -> DpmSolverV3:
    """Return DPM-Solver-v3, one evaluation a step.

    With ``f = (1 - l) x - D`` and ``g = e^(S_i - S) f - int e^(S_i - S) b`` from the step's start
    i, a polynomial in ``lambda = -log sigma`` through the last ``order`` predictions:
    ``x' = e^(L_i - L') x - e^-L' int e^(L + S - S_i) (g + int e^(S_i - S) b) dlambda``,
    L and S the integrals of l and s.

    The published code moves a schedule's noise levels to the nearest of the statistics' grid and
    sums trapezoids on it. Here the schedule stays as it is: the statistics are splines between
    the grid's values, integrated to rounding over each step.

    Args:
        statistics: from `samplers.calibrate`, with the rule that will guide; or the file they
            were saved to.
        order: 1 to 3; of the first steps lower. The authors take 3 without guidance, 2 with.
        corrector: let a prediction also correct the step that led to it, for no evaluation more.
            The authors do so on few steps, 5 or 6.
        pseudo: take the k-th derivative of g from the last k + 1 predictions alone, in the
            predictor. The authors do so at 5 steps; converges with order 2 at most.
        lower_order_final: let the last steps use no more predictions than there are steps left,
            as the published code does.

    Raises:
        ValueError: another order, switches that are not True or False, or no statistics.

    Source: Zheng et al., arXiv 2310.13268.
    """
    order = checked_order("dpm_solver_v3", order, MOST)
    options = dict(corrector=corrector, pseudo=pseudo, lower_order_final=lower_order_final)
    switches("dpm_solver_v3", **options)
    if isinstance(statistics, (str, Path)):
        statistics = Statistics.load(statistics)
    if not isinstance(statistics, Statistics):
        raise ValueError(
            f"samplers.dpm_solver_v3: statistics must be those samplers.calibrate returns, or the "
            f"path of a file they were saved to, got {type(statistics).__name__}"
        )
    return DpmSolverV3(order, statistics=statistics, **options)


def basis(u: np.ndarray, nodes: np.ndarray, *, pseudo: bool = False) -> np.ndarray:
    """Return what each value at ``nodes`` adds to their polynomial at u, in Newton's form.

    ``sum_p prod_(k<p) (u - u_k) [0, ..., p]`` with the values' divided differences in brackets.

    Args:
        u: where, as distances in log sigma from the step's start.
        nodes: where the values are; the first at the start if ``pseudo``.
        pseudo: ``u^p`` instead of the product, as if the p-th divided difference, which takes the
            p + 1 first values alone, were the p-th derivative over p! at the start.

    Returns:
        ``[nodes, points]``.
    """
    values, power = np.zeros((len(nodes), len(u))), np.ones_like(u)
    for p in range(len(nodes)):
        for j in range(p + 1):
            values[j] += power / np.prod(nodes[j] - np.delete(nodes[: p + 1], j))
        power = power * (u if pseudo else u - nodes[p])
    return values


def _require_cover(statistics: Statistics, sigmas: np.ndarray) -> None:
    low, high = statistics.sigma_min, statistics.sigma_max
    above = sigmas[sigmas > 0]
    if above[0] > high * (1 + ROUNDING) or above[-1] < low * (1 - ROUNDING):
        raise ValueError(
            f"samplers.dpm_solver_v3: the schedule goes from sigma {above[0]:g} to {above[-1]:g}, "
            f"the statistics know {high:g} to {low:g}: give the schedule sigma_max={high:g} and "
            f"sigma_min={low:g}, or calibrate over its own range"
        )
