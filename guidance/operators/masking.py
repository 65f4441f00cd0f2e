"""Some values of a sample, the others unknown: inpainting."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register
from .operator import Flat, numbers, require_broadcast


@pytree
class Mask(Flat):
    """Keep the values where a mask is 1, and put 0 elsewhere."""

    mask: Float[Array | np.ndarray, "..."]

    def singular(self):
        return 1.0

    def observed(self, shape):
        require_broadcast("mask", "mask", self._for(len(shape)), shape)
        return tuple(shape)

    def forward(self, x):
        self.observed(x.shape[1:])
        own = self._for(x.ndim - 1)
        return x * jnp.asarray(self.mask, x.dtype).reshape(own)

    def adjoint(self, u):
        return self.forward(u)

    def _for(self, axes: int) -> tuple[int, ...]:
        """Return the mask's shape beside samples of so many axes: one of pixels has no channel."""
        shape = tuple(np.shape(self.mask))
        return (*shape, 1) if len(shape) == axes - 1 else shape


@register("operator")
def mask(mask: Any) -> Mask:
    """Return the operator that keeps what a mask marks; the rest of the measurement is 0.

    Args:
        mask: 1 where a value is known, 0 where it is not, ``[height, width]`` for images or of
            the samples' own shape ``[height, width, channel]``; axes of 1 broadcast.

    Raises:
        ValueError: other values than 0 and 1, or none known; when used, another shape.
    """
    found = numbers("mask", "mask", mask, (1, 2, 3, 4))
    if not isinstance(found, jax.core.Tracer):
        if not np.all((found == 0) | (found == 1)):
            raise ValueError(
                "guidance.mask: mask is 1 where a value is known and 0 where it is not, and here "
                "are other values: compare with a threshold first"
            )
        if not found.any():
            raise ValueError("guidance.mask: mask is 0 everywhere: nothing is measured")
    return Mask(found)
