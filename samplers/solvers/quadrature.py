"""Gauss and Legendre's points, with which solvers integrate their tables in float64."""

import functools

import numpy as np

# Enough for a polynomial times an exponential, or in any smooth time, to be exact over a step.
COUNT = 64
_POINTS, _SHARES = np.polynomial.legendre.leggauss(COUNT)


def over(start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points inside an interval and their weights: ``weights @ f(points)`` integrates f."""
    half = (end - start) / 2
    return start + half * (1 + _POINTS), half * _SHARES


def cumulative(h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points in (0, h), their weights, and ``[points, points]`` weights up to each."""
    points, shares = over(0.0, h)
    return points, shares, h / 2 * _up_to()


@functools.cache
def _up_to() -> np.ndarray:
    degrees = np.arange(COUNT + 1)
    legendre = np.polynomial.legendre.legvander(_POINTS, COUNT)
    # The integral of P_k from -1 is (P_(k+1) - P_(k-1)) / (2 k + 1), and of P_0 it is x + 1.
    before = np.column_stack([-np.ones(COUNT), legendre[:, : COUNT - 1]])
    integrated = (legendre[:, 1:] - before) / (2 * degrees[:COUNT] + 1)
    projected = (legendre[:, :COUNT] * _SHARES[:, None] * (degrees[:COUNT] + 0.5)).T
    return integrated @ projected
