"""Schedules that space the time of a diffusion process, or the steps of its table, evenly."""

import math

import numpy as np

from ...core.noise_levels import (
    BETAS,
    cosine_table,
    flow_sigma,
    flow_time,
    linear_sigma,
    table_log_alpha_bar,
    vp_sigma,
)
from ...core.registry import register
from ..checks import plain, positive, span, whole
from .ending import ended

SPACINGS = ("leading", "trailing", "uniform", "quadratic")


@register("schedule")
def vp(
    steps: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    end: float = 1e-3,
    rho: float = 1.0,
    *,
    final_zero: bool = True,
) -> np.ndarray:
    """Return ``sigma(t_i)``, ``t_i = (1 + i/(n-1) (end^(1/rho) - 1))^rho``, of linear beta.

    ``sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1`` with beta_d 19.9 and beta_min 0.1, or
    with the pair that puts the given noise levels at the two ends.

    Args:
        steps: number of steps n, one for each noise level that is evaluated.
        sigma_min, sigma_max: noise levels at time ``end`` and at time 1; those of the standard
            process (0.0105 and 152.2 with the default ``end``) when left out.
        end: the last time that is evaluated.
        rho: 1 spaces time evenly; 2, a quadratic time, is what DEIS uses.
        final_zero: append the 0 at which a trajectory ends.

    Returns:
        float64 ``[steps + 1]`` (``[steps]`` without the final 0).

    Raises:
        ValueError: no steps, no such time, or noise levels that the process does not join.

    Source: Song et al., arXiv 2011.13456, appendix C; ends as Karras et al., arXiv 2206.00364,
    table 1; rho as Zhang and Chen, arXiv 2204.13902.
    """
    plain("vp", end=end)
    positive("vp", rho=rho)
    if not 0 < end < 1:
        raise ValueError(f"samplers.vp: end must be a time between 0 and 1, got {end}")
    low = float(vp_sigma(end)) if sigma_min is None else sigma_min
    high = float(vp_sigma(1.0)) if sigma_max is None else sigma_max
    span("vp", steps, low, high)
    times = (1 + np.linspace(0.0, 1.0, int(steps)) * (end ** (1 / rho) - 1)) ** rho
    if sigma_min is None and sigma_max is None:
        return ended("vp", np.asarray(vp_sigma(times)), final_zero)
    exponent_low, exponent_high = np.log1p(np.square(low)), np.log1p(np.square(high))
    beta_d = 2 * (exponent_low / end - exponent_high) / (end - 1)
    beta_min = exponent_high - beta_d / 2
    # beta, linear in t, is positive at `end`; if it is at 1 as well, it is in between.
    if not beta_min + beta_d > 0:
        least = 1 - np.sqrt(1 - exponent_low / exponent_high)
        raise ValueError(
            f"samplers.vp: no process with a linear beta goes from sigma {low:g} at time {end:g} "
            f"to {high:g} at time 1; ask for an `end` above {least:.3g}"
        )
    sigmas = np.asarray(linear_sigma(times, float(beta_min), float(beta_d)))
    return ended("vp", sigmas, final_zero, high, low)


@register("schedule")
def vp_discrete(
    steps: int,
    spacing: str = "trailing",
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    betas: str = "linear",
    table: int = 1000,
    reach: float = 1.0,
    *,
    final_zero: bool = True,
) -> np.ndarray:
    """Return ``sqrt(1/alpha_bar_j - 1)`` at chosen steps j of a DDPM table of T steps.

    Args:
        steps: number of steps n, one for each noise level that is evaluated.
        spacing: "leading", multiples of ``T // n`` from 0 (DDIM calls it uniform; starts below
            the highest level); "trailing", multiples of ``T / n`` down from the last step;
            "uniform", evenly from the last step to step 0; "quadratic", square roots of the step
            evenly spaced, rounded down.
        beta_start, beta_end: ends of the table's betas.
        betas: "linear", or "scaled_linear" for betas whose square roots are linear.
        table: T.
        reach: share of the table that is used, from its low end; 0.8 in the quadratic spacing of
            DDIM's code.
        final_zero: append the 0 at which a trajectory ends.

    Returns:
        float64 ``[steps + 1]`` (``[steps]`` without the final 0).

    Raises:
        ValueError: unknown names, a table that is none, or more steps than the spacing has.

    Source: Ho et al., arXiv 2006.11239, section 4; spacings as Song et al., arXiv 2010.02502,
    appendix D, and Lin et al., arXiv 2305.08891, table 2.
    """
    whole("vp_discrete", steps=steps, table=table)
    plain("vp_discrete", beta_start=beta_start, beta_end=beta_end, reach=reach)
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"samplers.vp_discrete: need 0 < beta_start <= beta_end < 1, got {beta_start} and "
            f"{beta_end}"
        )
    if betas not in BETAS:
        raise ValueError(
            f"samplers.vp_discrete: betas must be one of {', '.join(BETAS)}, got {betas!r}"
        )
    if not 0 < reach <= 1:
        raise ValueError(f"samplers.vp_discrete: need 0 < reach <= 1, got {reach}")
    chosen = _spaced(int(steps), spacing, int(table), round(reach * table))
    log_alpha_bar = table_log_alpha_bar(beta_start, beta_end, int(table), betas)
    return ended("vp_discrete", np.sqrt(np.expm1(-log_alpha_bar[chosen])), final_zero)


@register("schedule")
def iddpm(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 81.0, *, final_zero: bool = True
) -> np.ndarray:
    """Return evenly spaced entries, rounded to whole ones, of the cosine table within a range.

    Args:
        steps: number of steps, one for each noise level that is evaluated; 992 at most in the
            default range.
        sigma_min, sigma_max: range of the entries that are kept; the schedule ends at those
            nearest to it (0.00643 and 80.2 by default).
        final_zero: append the 0 at which a trajectory ends.

    Returns:
        float64 ``[steps + 1]`` (``[steps]`` without the final 0).

    Raises:
        ValueError: no steps, noise levels that do not decrease, or more steps than entries.

    Source: Nichol and Dhariwal, arXiv 2102.09672, as in Karras et al., arXiv 2206.00364, table 1.
    """
    span("iddpm", steps, sigma_min, sigma_max)
    levels = cosine_table()
    kept = levels[(levels >= sigma_min) & (levels <= sigma_max)]
    if steps > kept.size:
        raise ValueError(
            f"samplers.iddpm: the table has {kept.size} noise levels between {sigma_min:g} and "
            f"{sigma_max:g}, fewer than {steps} steps; ask for fewer steps or a wider range"
        )
    chosen = np.round(np.linspace(0, kept.size - 1, int(steps))).astype(int)
    return ended("iddpm", kept[chosen], final_zero)


@register("schedule")
def flow(
    steps: int, shift: float = 1.0, sigma_max: float = 999.0, *, final_zero: bool = True
) -> np.ndarray:
    """Return ``shift t_i / (1 - t_i)``, t_i evenly down to 0: the linear path's own steps.

    Euler's method on these levels is Euler's method on the velocity. Shifting is
    ``t' = shift t / (1 + (shift - 1) t)``, a factor in sigma.

    Args:
        steps: number of steps, one for each noise level that is evaluated.
        shift: more than 1 puts more steps at high noise, as larger images need.
        sigma_max: the level that the first, shifted, time stands for. Time 1 has none in sigma;
            999 is 0.999, up to which networks of score or noise are trusted.
        final_zero: keep the 0, which these times reach by themselves.

    Returns:
        float64 ``[steps + 1]`` (``[steps]`` without the final 0).

    Raises:
        ValueError: no steps, or numbers that are not above 0.

    Source: Liu et al., arXiv 2209.03003; shift as Esser et al., arXiv 2403.03206, eq. 23.
    """
    whole("flow", steps=steps)
    positive("flow", shift=shift, sigma_max=sigma_max)
    times = np.linspace(flow_time(sigma_max / shift), 0.0, int(steps) + 1)
    return ended("flow", shift * np.asarray(flow_sigma(times[:-1])), final_zero, sigma_max)


def _spaced(steps, spacing, table, length):
    if spacing not in SPACINGS:
        raise ValueError(
            f"samplers.vp_discrete: spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}"
        )
    if steps > length:
        raise ValueError(
            f"samplers.vp_discrete: {steps} steps, but only {length} of the table to choose from; "
            "ask for fewer, or use samplers.vp"
        )
    if spacing == "trailing":
        return np.round(length - np.arange(steps) * (length / steps)).astype(int) - 1
    if spacing == "uniform":
        return np.round(np.linspace(length - 1, 0, steps)).astype(int)
    if spacing == "leading":
        if steps == 1:
            raise ValueError(
                "samplers.vp_discrete: one leading step starts where there is no noise; use "
                "spacing='trailing'"
            )
        return np.arange(steps)[::-1] * (length // steps)
    roots = np.linspace(math.sqrt(min(length, table - 1)), 0, steps)
    # Not a step less where the square of a root comes out below the step by rounding.
    chosen = np.floor(roots**2 + 1e-9).astype(int)
    if (np.diff(chosen) >= 0).any():
        raise ValueError(
            f"samplers.vp_discrete: {steps} quadratic steps repeat steps of the table; ask for "
            f"{math.isqrt(min(length, table - 1)) + 1} at most, or use samplers.vp with rho=2"
        )
    return chosen
