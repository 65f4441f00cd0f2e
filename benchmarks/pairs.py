"""Paired timing: two things in turn, so that what disturbs the machine disturbs both."""

import time
from collections.abc import Callable

import numpy as np


def paired(first: Callable[[], object], second: Callable[[], object], pairs: int) -> np.ndarray:
    """Return ``time(second) / time(first)`` of each pair of runs, after one run of each.

    Args:
        first, second: run once and wait for the result.
        pairs: how many, in an order that alternates.
    """
    first(), second()
    ratios = []
    for pair in range(pairs):
        seconds = {}
        for run in (first, second) if pair % 2 else (second, first):
            started = time.perf_counter()
            run()
            seconds[run] = time.perf_counter() - started
        ratios.append(seconds[second] / seconds[first])
    return np.array(ratios)


def summary(ratios: np.ndarray) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"median": float(middle), "low": float(low), "high": float(high)}
