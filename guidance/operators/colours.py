"""One weighted sum of the channels of each pixel: colourisation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register
from .operator import Flat, numbers

# Luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


@pytree
class Gray(Flat):
    """The sum of a sample's channels by weight; its singular value is the norm of the weights."""

    weights: Float[Array | np.ndarray, " channel"]

    def singular(self):
        return jnp.linalg.norm(jnp.asarray(self.weights))

    def observed(self, shape):
        channels = np.shape(self.weights)[0]
        if not shape or shape[-1] != channels:
            raise ValueError(
                f"guidance.gray: {channels} weights of channels, and samples of shape "
                f"{tuple(shape)}: give as many weights as there are channels"
            )
        return (*shape[:-1], 1)

    def forward(self, x):
        self.observed(x.shape[1:])
        return jnp.sum(x * jnp.asarray(self.weights, x.dtype), axis=-1, keepdims=True)

    def adjoint(self, u):
        return u * jnp.asarray(self.weights, u.dtype)


@register("operator")
def gray(weights: Sequence[float] = LUMA) -> Gray:
    """Return the operator that sums the channels of each pixel by weight.

    Args:
        weights: one a channel; by default the luma of red, green and blue.

    Raises:
        ValueError: weights that are no numbers, or all 0; when used, another number of channels.
    """
    found = numbers("gray", "weights", weights, (1,))
    if not isinstance(found, jax.core.Tracer) and not found.any():
        raise ValueError("guidance.gray: weights are all 0: nothing is measured")
    return Gray(found)
