"""How far a figure is from that of other seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """Of one figure over repeated seeds.

    Attributes:
        mean: over seeds.
        deviation: standard deviation over seeds, unbiased variance; None of a single one.
        minimum: the lowest, which some papers report of three.
        count: seeds.
    """

    mean: float
    deviation: float | None
    minimum: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of a figure's values over seeds.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"{values!r} are no values over seeds: give one finite number or more")
    deviation = float(found.std(ddof=1)) if found.size > 1 else None
    return Spread(float(found.mean()), deviation, float(found.min()), found.size)
