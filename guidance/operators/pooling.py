"""Means over blocks of pixels: super-resolution."""

import jax.numpy as jnp

from ...core.pytrees import pytree, static
from ...core.registry import register
from .operator import Flat, require_image


@pytree
class AveragePool(Flat):
    """The mean of each block of ``size`` by ``size`` pixels; all singular values ``1/size``."""

    size: int = static()

    def singular(self):
        return 1 / self.size

    def observed(self, shape):
        require_image("average_pool", shape)
        height, width, channels = shape
        if height % self.size or width % self.size:
            raise ValueError(
                f"guidance.average_pool: images of {height} by {width} pixels have no whole "
                f"number of blocks of {self.size} by {self.size}: choose a size that divides both"
            )
        return height // self.size, width // self.size, channels

    def forward(self, x):
        height, width, channels = self.observed(x.shape[1:])
        blocks = x.reshape(x.shape[0], height, self.size, width, self.size, channels)
        return blocks.mean(axis=(2, 4))

    def adjoint(self, u):
        return self.pinv(u) / self.size**2

    def pinv(self, u):
        """Return each mean in every pixel of its block."""
        return jnp.repeat(jnp.repeat(u, self.size, axis=1), self.size, axis=2)


@register("operator")
def average_pool(size: int) -> AveragePool:
    """Return the operator that takes the mean of blocks of ``size`` by ``size`` pixels.

    Its pseudo-inverse repeats each mean over its block. (The bicubic pairs of public
    super-resolution code are no pseudo-inverses of each other.)

    Raises:
        ValueError: size not a whole number from 1; when used, images that it does not divide.
    """
    if isinstance(size, bool) or int(size) != size or size < 1:
        raise ValueError(
            f"guidance.average_pool: size must be a whole number of pixels from 1, got {size!r}"
        )
    return AveragePool(int(size))
