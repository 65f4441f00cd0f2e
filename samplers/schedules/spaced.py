"""Schedules that space sigma itself, or a function of it, evenly."""

import numpy as np

from ...core.registry import register
from ..checks import positive, span
from .ending import ended


@register("schedule")
def karras(
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    *,
    final_zero: bool = True,
) -> np.ndarray:
    """Return ``(sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho``.

    Args:
        steps: number of steps n, one for each noise level that is evaluated.
        sigma_min, sigma_max: lowest and highest noise level, in sigma.
        rho: more than 1 puts more steps at low noise.
        final_zero: append the 0 at which a trajectory ends.

    Returns:
        float64 ``[steps + 1]`` (``[steps]`` without the final 0).

    Raises:
        ValueError: no steps, or noise levels that do not decrease.

    Source: Karras et al., arXiv 2206.00364, eq. 5.
    """
    return _power("karras", steps, sigma_min, sigma_max, rho, final_zero)


@register("schedule")
def linear(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, final_zero: bool = True
) -> np.ndarray:
    """Return ``sigma_max + i/(n-1) (sigma_min - sigma_max)``.

    Args, Returns, Raises: as `karras`, whose rho is 1 here.
    """
    return _power("linear", steps, sigma_min, sigma_max, 1.0, final_zero)


@register("schedule")
def polyexponential(
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 1.0,
    *,
    final_zero: bool = True,
) -> np.ndarray:
    """Return ``sigma_min (sigma_max/sigma_min)^((1 - i/(n-1))^rho)``, a polynomial in log sigma.

    Args:
        steps, sigma_min, sigma_max, final_zero: as `karras`.
        rho: 1 spaces log sigma evenly; more puts more steps at low noise.

    Returns, Raises: as `karras`.

    Source: the schedule of this name in k-diffusion.
    """
    return _exponential("polyexponential", steps, sigma_min, sigma_max, rho, final_zero)


@register("schedule")
def exponential(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, final_zero: bool = True
) -> np.ndarray:
    """Return ``sigma_max (sigma_min/sigma_max)^(i/(n-1))``, even steps of log sigma.

    Args, Returns, Raises: as `karras`, without rho.
    """
    return _exponential("exponential", steps, sigma_min, sigma_max, 1.0, final_zero)


@register("schedule")
def log_snr(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, final_zero: bool = True
) -> np.ndarray:
    """Return even steps of the log-SNR ``-2 log sigma``: the levels of `exponential`.

    What the DPM-Solver family prefers on small images, there over variance-preserving times from
    1 to 1e-3 (1e-4 beyond 15 steps): sigmas 152.17 and 0.01049 (0.003179).

    Args, Returns, Raises: as `karras`, without rho.

    Source: Lu et al., arXiv 2206.00927.
    """
    return _exponential("log_snr", steps, sigma_min, sigma_max, 1.0, final_zero)


@register("schedule")
def ve(
    steps: int, sigma_min: float = 0.02, sigma_max: float = 100.0, *, final_zero: bool = True
) -> np.ndarray:
    """Return ``sqrt(t_i)``, ``t_i = sigma_max^2 (sigma_min^2/sigma_max^2)^(i/(n-1))``.

    The levels of `exponential` over the range of variance-exploding networks.

    Args, Returns, Raises: as `karras`, without rho.

    Source: Karras et al., arXiv 2206.00364, table 1, column VE.
    """
    return _exponential("ve", steps, sigma_min, sigma_max, 1.0, final_zero)


@register("schedule")
def arctan(
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigma_data: float = 0.5,
    *,
    final_zero: bool = True,
) -> np.ndarray:
    """Return ``c tan(theta_i)``, theta_i evenly from ``arctan(sigma_max/c)`` to that of sigma_min.

    The best schedule there is for Euler's method on Gaussian data of standard deviation c.

    Args:
        steps, sigma_min, sigma_max, final_zero: as `karras`.
        sigma_data: c, the standard deviation of the data.

    Returns, Raises: as `karras`.

    Source: Sabour et al., arXiv 2404.14507, the Gaussian case.
    """
    span("arctan", steps, sigma_min, sigma_max)
    positive("arctan", sigma_data=sigma_data)
    high, low = np.arctan(sigma_max / sigma_data), np.arctan(sigma_min / sigma_data)
    sigmas = sigma_data * np.tan(high + _ramp(steps) * (low - high))
    return ended("arctan", sigmas, final_zero, sigma_max, sigma_min)


def _power(owner, steps, sigma_min, sigma_max, rho, final_zero):
    span(owner, steps, sigma_min, sigma_max)
    positive(owner, rho=rho)
    low, high = np.float64(sigma_min) ** (1 / rho), np.float64(sigma_max) ** (1 / rho)
    sigmas = (high + _ramp(steps) * (low - high)) ** rho
    return ended(owner, sigmas, final_zero, sigma_max, sigma_min)


def _exponential(owner, steps, sigma_min, sigma_max, rho, final_zero):
    span(owner, steps, sigma_min, sigma_max)
    positive(owner, rho=rho)
    low, high = np.log(sigma_min), np.log(sigma_max)
    sigmas = np.exp(low + (1 - _ramp(steps)) ** rho * (high - low))
    return ended(owner, sigmas, final_zero, sigma_max, sigma_min)


def _ramp(steps):
    return np.linspace(0.0, 1.0, int(steps))
