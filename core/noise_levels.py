"""What a noise level is called elsewhere: log-SNR, variance-preserving time, flow time, table step.

The noise levels are EDM's, ``x = x0 + sigma * noise``; times run from 0 to 1, pure noise. Plain
numbers and numpy arrays are answered by numpy in their own precision, jax arrays (traced ones
too) by jax, so that derivatives are `jax.grad`'s.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# A noise level, or a time: what functions are given is what they answer with.
Level = Float[Array, "..."] | Float[np.ndarray, "..."] | np.floating | float | int
# The linear schedule of variance-preserving diffusion (Song et al., arXiv 2011.13456, app. C).
BETA_MIN, BETA_MAX = 0.1, 20.0
SLOPE = BETA_MAX - BETA_MIN
# How the betas of a DDPM table are spaced.
BETAS = ("linear", "scaled_linear")


def vp_time(sigma: Level) -> Level:
    """Return the time at which variance-preserving diffusion has noise level ``sigma``.

    ``sigma(t)^2 = 1 / alpha_bar(t) - 1`` solved for t.

    Args:
        sigma: EDM noise level, 0 or more. Above `vp_sigma` of 1, about 152, the time stays at 1.
    """
    return _library(sigma).minimum(linear_time(sigma, BETA_MIN, SLOPE), 1)


def vp_sigma(t: Level) -> Level:
    """Return the noise level of variance-preserving diffusion at a time; beta runs from 0.1 to 20.

    Args:
        t: in [0, 1].

    Source: Song et al., arXiv 2011.13456, appendix C.
    """
    return linear_sigma(t, BETA_MIN, SLOPE)


def linear_time(sigma: Level, beta_min: float, slope: float) -> Level:
    """Return the time at which diffusion with ``beta(t) = beta_min + slope t`` has a noise level.

    Solves ``log(1 + sigma^2) = slope t^2 / 2 + beta_min t``.

    Args:
        sigma: EDM noise level, 0 or more.
        beta_min, slope: plain numbers, the first may be negative.
    """
    of = _library(sigma)
    exponent = of.log1p(of.square(sigma))
    root = of.sqrt(beta_min**2 + 2 * slope * exponent)
    # The root of the quadratic in whichever form does not cancel for small sigma.
    if beta_min < 0:
        return (root - beta_min) / slope
    return 2 * exponent / (beta_min + root)


def linear_sigma(t: Level, beta_min: float, slope: float) -> Level:
    """Return the noise level of diffusion with ``beta(t) = beta_min + slope t``.

    ``sqrt(1 / alpha_bar(t) - 1)`` with ``alpha_bar(t) = exp(-slope t^2 / 2 - beta_min t)``.

    Args:
        t: in [0, 1].
        beta_min, slope: plain numbers.
    """
    # Ranges of networks, which results are known by, are plain numbers: numpy's last bit differs.
    of = math if isinstance(t, float) else _library(t)
    return of.sqrt(of.expm1(slope / 2 * t**2 + beta_min * t))


def flow_time(sigma: Level) -> Level:
    """Return the time of the linear path ``(1 - t) x0 + t noise``, ``sigma / (1 + sigma)``."""
    return sigma / (1 + sigma)


def flow_sigma(t: Level) -> Level:
    """Return the noise level ``t / (1 - t)`` of the linear path ``(1 - t) x0 + t noise``.

    Args:
        t: in [0, 1); time 1 has no finite noise level.
    """
    return t / (1 - t)


def log_snr_of(sigma: Level) -> Level:
    """Return the logarithm of the ratio of variances, ``-2 log sigma``; infinite at 0."""
    if isinstance(sigma, jax.Array):
        return -2 * jnp.log(sigma)
    with np.errstate(divide="ignore"):
        return -2 * np.log(sigma)


def log_snr_sigma(log_snr: Level) -> Level:
    """Return the noise level ``exp(-log_snr / 2)`` of a log-SNR."""
    return _library(log_snr).exp(-log_snr / 2)


# name -> (from sigma, to sigma)
COORDINATES: dict[str, tuple[Callable, Callable]] = {
    "sigma": (lambda sigma: sigma, lambda sigma: sigma),
    "log_snr": (log_snr_of, log_snr_sigma),
    "vp": (vp_time, vp_sigma),
    "flow": (flow_time, flow_sigma),
}
# The coordinates that are times: what schedules of guidance are written in.
TIMES = {"vp": vp_time, "flow": flow_time}


def convert(value: Level, source: str, target: str) -> Level:
    """Return the same noise level in another coordinate.

    Args:
        value: noise levels in the coordinate ``source``: "sigma", "log_snr", "vp" (time of the
            standard variance-preserving process, up to 1, sigma about 152, where it stays) or
            "flow" (time of the linear path, below 1).
        source, target: names of coordinates.

    Raises:
        ValueError: an unknown coordinate.
    """
    for name in (source, target):
        if name not in COORDINATES:
            raise ValueError(
                f"samplers.convert: coordinates are {', '.join(COORDINATES)}, got {name!r}"
            )
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
    if source == target:
        return value
    return COORDINATES[target][0](COORDINATES[source][1](value))


def checked_time(owner: str, time: str) -> str:
    """Return the name of a time.

    Raises:
        ValueError: not one of `TIMES`, in the name of ``owner``.
    """
    if time not in TIMES:
        raise ValueError(f"guidance.{owner}: time must be one of {', '.join(TIMES)}, got {time!r}")
    return time


def table_log_alpha_bar(
    beta_start: float, beta_end: float, steps: int, betas: str = "linear"
) -> np.ndarray:
    """Return ``log alpha_bar_j``, the sum of ``log(1 - beta_i)`` up to j, of a DDPM table.

    The noise level of a step is ``sqrt(1 / alpha_bar_j - 1)``.

    Args:
        beta_start, beta_end: the first and the last beta.
        steps: their number.
        betas: one of `BETAS`: evenly spaced themselves, or by their square roots (Stable
            Diffusion).

    Returns:
        float64 ``[steps]``, falling.

    Source: Ho et al., arXiv 2006.11239, section 4.
    """
    power = 2 if betas == "scaled_linear" else 1
    spaced = np.linspace(beta_start ** (1 / power), beta_end ** (1 / power), steps)
    return np.cumsum(np.log1p(-(spaced**power)))


@functools.cache
def cosine_table(
    steps: int = 1000, least_ratio: float = 0.001, offset: float = 0.008
) -> np.ndarray:
    """Return the noise levels of improved DDPM's cosine table, from the highest, 20291, to 0.

    ``u_M = 0``, ``u_(j-1) = sqrt((u_j^2 + 1) / max(alpha_bar_(j-1) / alpha_bar_j, least_ratio) -
    1)`` with ``alpha_bar_j = sin^2(pi/2 j / (M (1 + offset)))``. A network trained on this table
    knows these levels only.

    Args:
        steps: M.
        least_ratio: of neighbouring alpha_bar.
        offset: keeps the lowest noise level above 0.

    Returns:
        float64 ``[M + 1]``, not to be written to.

    Source: Nichol and Dhariwal, arXiv 2102.09672, as in Karras et al., arXiv 2206.00364, table 1.
    """
    alpha_bar = np.sin(math.pi / 2 * np.arange(steps + 1) / (steps * (offset + 1))) ** 2
    levels = np.zeros(steps + 1)
    for j in range(steps, 0, -1):
        ratio = max(alpha_bar[j - 1] / alpha_bar[j], least_ratio)
        levels[j - 1] = math.sqrt((levels[j] ** 2 + 1) / ratio - 1)
    levels.flags.writeable = False
    return levels


def _library(value):
    return jnp if isinstance(value, jax.Array) else np
