"""Where a zero-order search looks next: noise near the best so far (2501.09732).

The paper gives neither the metric nor the law of its candidates; each proposal here says its own.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float


def _dot(one: Array, two: Array) -> Array:
    axes = tuple(range(1, one.ndim))
    return jnp.sum(one * two, axis=axes, keepdims=True)


def _unit(x: Array) -> Array:
    return x / jnp.sqrt(_dot(x, x))


def mix(
    pivot: Float[Array, " batch *shape"], fresh: Float[Array, " batch *shape"], radius: float
) -> Float[Array, " batch *shape"]:
    """Return ``sqrt(1 - radius^2) z + radius xi``: unit noise stays unit noise."""
    return math.sqrt(1 - radius**2) * pivot + radius * fresh


def rotate(
    pivot: Float[Array, " batch *shape"], fresh: Float[Array, " batch *shape"], radius: float
) -> Float[Array, " batch *shape"]:
    """Return ``|z| (cos z/|z| + sin w)``, w a random direction at right angles to z; sin = radius.

    The norm stays as it is.
    """
    across = fresh - pivot * (_dot(fresh, pivot) / _dot(pivot, pivot))
    length = jnp.sqrt(_dot(pivot, pivot))
    return math.sqrt(1 - radius**2) * pivot + radius * length * _unit(across)


def shell(
    pivot: Float[Array, " batch *shape"], fresh: Float[Array, " batch *shape"], radius: float
) -> Float[Array, " batch *shape"]:
    """Return ``z + radius w``, w a random direction: the norm grows, and large radii leave it."""
    return pivot + radius * _unit(fresh)


PROPOSALS: dict[str, Callable[[Array, Array, float], Array]] = {
    "mix": mix,
    "rotate": rotate,
    "shell": shell,
}
