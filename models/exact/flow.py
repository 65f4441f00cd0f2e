"""What exact flows have in common."""

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


class ExactFlow(abc.ABC):
    """Base of distributions whose flow map is known."""

    @abc.abstractmethod
    def flow_map(self, x: Any, sigma: Any, to: Any) -> Array:
        """Return where the flow carries ``x`` of noise level ``sigma`` at the level ``to``."""

    def consistency(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, "..."],
        sigma_min: Float[ArrayLike, "..."] = 0.0,
    ) -> Float[Array, " batch *shape"]:
        """Return the end of the flow, its map to ``sigma_min``."""
        return self.flow_map(x, sigma, sigma_min)


def columns(x: ArrayLike, *numbers: ArrayLike) -> tuple[Array, ...]:
    """Return samples, and numbers of which each is a scalar or one a sample, as columns."""
    x = jnp.asarray(x, float) if not hasattr(x, "dtype") else jnp.asarray(x)
    found = []
    for number in numbers:
        number = jnp.asarray(number, x.dtype)
        one_each = number.ndim == 1 and x.ndim > 1
        found.append(number.reshape((-1,) + (1,) * (x.ndim - 1)) if one_each else number)
    return x, *found
