"""Convolution with a kernel on images that go around at their edges: deblurring."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register
from .operator import Linear, numbers, require_image

AXES = (1, 2)


@pytree
class Blur(Linear):
    """Circular convolution of every channel, diagonal in the Fourier basis.

    Frequencies whose response is at most ``cutoff`` times the largest are lost, in `forward` too:
    the operator is the kernel without them, so that its pseudo-inverse is exact.
    """

    kernel: Float[Array | np.ndarray, "height width"]
    cutoff: float | Array

    def observed(self, shape):
        require_image("blur", shape)
        if any(own > one for own, one in zip(np.shape(self.kernel), shape[:2], strict=True)):
            raise ValueError(
                f"guidance.blur: a kernel of {np.shape(self.kernel)} pixels does not fit into "
                f"images of {shape[0]} by {shape[1]}: crop it"
            )
        return tuple(shape)

    def forward(self, x):
        return self._times(x, self._response(x))

    def adjoint(self, u):
        return self._times(u, jnp.conj(self._response(u)))

    def pinv(self, u):
        response = self._response(u)
        power = jnp.abs(response) ** 2
        kept = power > 0
        return self._times(u, jnp.where(kept, jnp.conj(response) / jnp.where(kept, power, 1), 0))

    def filtered(self, x, gain):
        return self._times(x, gain(jnp.abs(self._response(x))))

    def _response(self, x: Array) -> Array:
        """Return the kernel's spectrum ``[height, width / 2 + 1, 1]``, its centre at the origin."""
        self.observed(x.shape[1:])
        kernel = jnp.asarray(self.kernel, x.dtype)
        height, width = kernel.shape
        placed = jnp.zeros(x.shape[1:3], x.dtype).at[:height, :width].set(kernel)
        placed = jnp.roll(placed, (-(height // 2), -(width // 2)), axis=(0, 1))
        response = jnp.fft.rfft2(placed)
        size = jnp.abs(response)
        lost = size <= jnp.asarray(self.cutoff, x.dtype) * size.max()
        return jnp.where(lost, 0, response)[..., None]

    @staticmethod
    def _times(x: Array, factors: Array) -> Array:
        spectrum = jnp.fft.rfft2(x, axes=AXES) * factors
        return jnp.fft.irfft2(spectrum, s=x.shape[1:3], axes=AXES).astype(x.dtype)


@register("operator")
def blur(kernel: Any, cutoff: float = 1e-3) -> Blur:
    """Return the circular convolution of images with a kernel.

    Args:
        kernel: ``[height, width]``, its centre at ``(height // 2, width // 2)``; see
            `gaussian_kernel`.
        cutoff: frequencies whose response is at most this share of the largest count as lost;
            the pseudo-inverse magnifies noise by up to its reciprocal. From the noise of a
            measurement: 0.02 for one kept in 8 bits.

    Raises:
        ValueError: a kernel that is no array of two axes or is 0, a cutoff outside [0, 1); when
            used, a kernel larger than the images.
    """
    found = numbers("blur", "kernel", kernel, (2,))
    if not isinstance(found, jax.core.Tracer) and not found.any():
        raise ValueError("guidance.blur: kernel is 0: nothing is measured")
    if not isinstance(cutoff, jax.core.Tracer) and not 0 <= cutoff < 1:
        raise ValueError(f"guidance.blur: cutoff is a share in [0, 1), got {cutoff}")
    return Blur(found, cutoff)


def gaussian_kernel(std: float, size: int | None = None) -> np.ndarray:
    """Return a Gaussian kernel ``[size, size]`` that sums to 1, for `blur`.

    Args:
        std: in pixels.
        size: odd; as wide as three standard deviations to each side if None.

    Raises:
        ValueError: std not positive, or size not odd.
    """
    size = 2 * int(np.ceil(3 * std)) + 1 if size is None else size
    if not std > 0 or size < 1 or not size % 2:
        raise ValueError(
            f"gaussian_kernel: need std above 0 and an odd size, got std={std}, size={size}"
        )
    steps = np.arange(size) - size // 2
    line = np.exp(-(steps**2) / (2 * std**2))
    kernel = np.outer(line, line)
    return kernel / kernel.sum()
