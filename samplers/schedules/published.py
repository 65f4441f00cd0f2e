"""Schedules that are lists: published ones, and whichever one writes down."""

from collections.abc import Sequence

import numpy as np

from ...core.registry import register
from ..checks import checked, on_host, whole

# Eleven levels each, ten steps between them.
ALIGN_YOUR_STEPS = {
    "sd15": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
        0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
    ),
    "sdxl": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
        0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
    ),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}  # fmt: skip


@register("schedule")
def align_your_steps(steps: int, model: str = "sd15", *, final_zero: bool = True) -> np.ndarray:
    """Return the levels optimised for a published model, or those between them.

    The list is interpolated linearly in log sigma over its index to ``steps + 1`` levels, the
    last of which then becomes 0, as published wrappers do: 10 steps are the list's own.

    Args:
        steps: number of steps, one for each noise level that is evaluated.
        model: "sd15", "sdxl" (levels of their latents) or "svd".
        final_zero: end in 0. Otherwise ``steps`` levels end at the lowest of the list: 11 give
            the list itself.

    Returns:
        float64 ``[steps + 1]`` (``[steps]`` without the final 0).

    Raises:
        ValueError: no steps, or a model without a list.

    Source: Sabour et al., arXiv 2404.14507.
    """
    whole("align_your_steps", steps=steps)
    if model not in ALIGN_YOUR_STEPS:
        raise ValueError(
            f"samplers.align_your_steps: model must be one of {', '.join(ALIGN_YOUR_STEPS)}, got "
            f"{model!r}; for other data see samplers.arctan"
        )
    levels = np.log(ALIGN_YOUR_STEPS[model])
    places = np.linspace(0, levels.size - 1, int(steps) + bool(final_zero))
    sigmas = np.exp(np.interp(places, np.arange(levels.size), levels))
    if final_zero:
        sigmas[-1] = 0.0
    return sigmas


@register("schedule")
def explicit(sigmas: Sequence[float], *, final_zero: bool = True) -> np.ndarray:
    """Return the noise levels as they are written down, with the final 0 if it is missing.

    Args:
        sigmas: decreasing, one for each step; a 0 at the end is kept.
        final_zero: append the 0 at which a trajectory ends, unless it is there.

    Returns:
        float64, as long as ``sigmas`` or one longer.

    Raises:
        ValueError: not decreasing, negative, not finite, or fewer than two levels with the 0.
    """
    levels = on_host(sigmas, "explicit")
    if final_zero and levels.ndim == 1 and levels.size and levels[-1] != 0:
        levels = np.append(levels, 0.0)
    return checked(levels, "explicit")
