"""Derivatives along a trajectory, by forward mode: of scanned layers, attention, anything.

The tangent of a student's output along the flow is a part of many targets (sCM, MeanFlow). It is
never differentiated itself: with it inside the gradient a step costs twice as much and its
gradient is another one.
"""

from collections.abc import Callable
from typing import Any

import jax


def value_and_tangent(function: Callable, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """Return a function's value, which carries the gradient, and its tangent, which carries none.

    One `jax.jvp` computes both; the gradient is bit for bit that of a plain call. A function that
    is given keys for dropout sees the same ones in value and tangent.

    Args:
        function: of ``primals``.
        primals: where.
        tangents: along what, of the same structure.
    """
    value, tangent = jax.jvp(function, primals, tangents)
    return value, jax.lax.stop_gradient(tangent)
