"""How schedules end: in a 0 or above it, at the noise levels that were asked for."""

import numpy as np


def ended(
    owner: str,
    sigmas: np.ndarray,
    final_zero: bool,
    first: float | None = None,
    last: float | None = None,
) -> np.ndarray:
    """Return noise levels with the final 0 if asked for, once they are known to decrease.

    Args:
        owner: the schedule.
        sigmas: its levels.
        final_zero: append a 0.
        first, last: levels that were asked for, put in without the rounding of the formula, so
            that a network's own limits are not passed by a last bit.

    Raises:
        ValueError: rounding has made two levels equal, or one infinite.
    """
    sigmas = np.append(np.asarray(sigmas, np.float64), 0.0)
    if last is not None:
        sigmas[-2] = last
    if first is not None:
        sigmas[0] = first
    if not np.isfinite(sigmas).all() or (np.diff(sigmas) >= 0).any():
        raise ValueError(
            f"samplers.{owner}: these arguments give noise levels that do not decrease in float64; "
            "ask for fewer steps, a wider range, or exponents nearer 1"
        )
    return sigmas if final_zero else sigmas[:-1]
