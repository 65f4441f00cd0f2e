"""Diffusion exponential integrator samplers (Zhang and Chen, arXiv 2204.13902)."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from ...core.noise_levels import BETA_MAX, BETA_MIN, linear_time
from ...core.registry import register
from ..checks import checked_order
from .dpm_solver import DpmSolverMultistep
from .lms import Lms
from .multistep import MOST, Multistep, adams_bashforth
from .runge_kutta import RungeKutta

MODES = ("tab", "rhoab", "logrho", "rhork")


@dataclasses.dataclass(frozen=True)
class RhoAb(Lms):
    """The direction extrapolated as a polynomial in sigma, the paper's rho."""

    name: ClassVar[str] = "deis"


@dataclasses.dataclass(frozen=True)
class LogRhoAb(DpmSolverMultistep):
    """The direction extrapolated as a polynomial in log sigma."""

    name: ClassVar[str] = "deis"


@dataclasses.dataclass(frozen=True)
class TAb(Multistep):
    """The direction extrapolated as a polynomial in the time of variance-preserving diffusion.

    Attributes:
        beta_min, beta_max: of the linear schedule that the time belongs to.
    """

    name: ClassVar[str] = "deis"
    beta_min: float
    beta_max: float

    def weights(self, sigmas):
        """Return integrals of the Lagrange basis in time."""
        return adams_bashforth(sigmas, self.directions, self.time)

    def time(self, sigma: np.ndarray) -> np.ndarray:
        """Return the time of a noise level."""
        return np.asarray(linear_time(sigma, self.beta_min, self.beta_max - self.beta_min))


@register("solver")
def deis(
    order: int = 4,
    mode: str = "tab",
    *,
    beta_min: float = BETA_MIN,
    beta_max: float = BETA_MAX,
    lower_order_final: bool = False,
) -> Multistep | RungeKutta:
    """Return DEIS: the noise direction extrapolated, the rest of the flow integrated exactly.

    ``x' = x + sum_j C_j d_j``, ``C_j = int_t^t' (dsigma/dt) l_j(t) dt``, l_j the Lagrange basis at
    this time and the ``order - 1`` before; the first steps have lower orders. A step to sigma = 0
    is Euler's. The first step's error is of second order: beyond order 2, the stated order of
    ``tab`` and ``rhoab`` needs better starting values than that, or shows while the rest dominates.

    Args:
        order: of convergence, 1 (Euler's method) to 4: the number of directions, one more than
            the degree in the paper's names (tAB3 is ``order=4``). 2 to 4 for ``rhork``.
        mode: the time of the polynomial: ``tab`` that of variance-preserving diffusion, ``rhoab``
            sigma (the same method as `lms`), ``logrho`` log sigma (the same method as multistep
            `dpm_solver`, to order 3), the only one of diffusers' scheduler. ``rhork`` is no
            multistep method: Heun's, Kutta's or the classical Runge-Kutta method in sigma,
            ``order`` evaluations a step.
        beta_min, beta_max: the linear schedule of ``tab``, per unit of time from 0 to 1. Scores
            published for EDM networks have -0.00476899 and 17.533188, which put sigma 0.002 at
            time 0.001 and 80 at 1.
        lower_order_final: of ``logrho``, let the last steps use no more directions than there are
            steps left, as diffusers' scheduler does on short schedules; second order then.

    Raises:
        ValueError: another order or mode, betas that are not ``beta_min < beta_max``; when
            sampling, fewer steps than the order of ``tab`` or ``rhoab``.

    Source: Zhang and Chen, arXiv 2204.13902, eq. 14 and 15 (tAB) and section 3 (rhoAB, rhoRK).
    """
    if mode not in MODES:
        raise ValueError(f"samplers.deis: mode is one of {', '.join(MODES)}, got {mode!r}")
    if not -math.inf < beta_min < beta_max < math.inf:
        raise ValueError(
            f"samplers.deis: need beta_min < beta_max, both finite, got beta_min={beta_min}, "
            f"beta_max={beta_max}"
        )
    if lower_order_final and mode != "logrho":
        raise ValueError("samplers.deis: lower_order_final is of the mode logrho: leave it out")
    if mode == "logrho":
        order = checked_order("deis", order, MOST - 1, least=2)
        return LogRhoAb(order, as_published=False, lower_order_final=lower_order_final)
    if mode == "rhork":
        return RungeKutta(checked_order("deis", order, MOST, least=2))
    order = checked_order("deis", order, MOST)
    return RhoAb(order) if mode == "rhoab" else TAb(order, float(beta_min), float(beta_max))
