"""Noise schedules: decreasing sigmas as float64 host arrays, ending in 0 unless asked otherwise."""

import math

import numpy as np


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
    if steps < 1 or steps != int(steps):
        raise ValueError(f"samplers.karras: steps must be a positive integer, got {steps}")
    if not (0 < sigma_min < sigma_max < math.inf) or not rho > 0:
        raise ValueError(
            f"samplers.karras: need 0 < sigma_min < sigma_max and rho > 0, got "
            f"sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}"
        )
    ramp = np.linspace(0.0, 1.0, int(steps), dtype=np.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return np.append(sigmas, 0.0) if final_zero else sigmas


def checked(sigmas) -> np.ndarray:
    """Return ``sigmas`` as a float64 host array, refusing what no sampler can run.

    Raises:
        ValueError: traced, too short, not finite, not decreasing, negative, or zero too early.
    """
    try:
        sigmas = np.asarray(sigmas, np.float64)
    except Exception as error:
        raise ValueError(
            "samplers.sample: sigmas must be known on the host (a list or numpy array): which "
            "evaluations exist is decided from them before anything is compiled"
        ) from error
    if sigmas.ndim != 1 or sigmas.size < 2:
        raise ValueError(
            f"samplers.sample: sigmas must be a list of at least two noise levels, got shape "
            f"{sigmas.shape}"
        )
    if not np.isfinite(sigmas).all() or (sigmas < 0).any():
        raise ValueError("samplers.sample: sigmas must be finite and not negative")
    if (np.diff(sigmas) >= 0).any():
        where = int(np.argmax(np.diff(sigmas) >= 0))
        raise ValueError(
            f"samplers.sample: sigmas must decrease, but sigmas[{where + 1}]={sigmas[where + 1]:g} "
            f"is not below sigmas[{where}]={sigmas[where]:g}; sort the schedule from high to low"
        )
    return sigmas
