"""Some frequencies of an image, the others unknown: magnetic resonance imaging."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register
from .operator import Linear, numbers, require_broadcast, require_image

AXES = (1, 2)


@pytree
class FourierMask(Linear):
    """Real and imaginary parts of the frequencies that a mask keeps, of the unitary transform.

    A frequency and its opposite tell the same of a real image: a singular value is
    ``sqrt((m(k)^2 + m(-k)^2) / 2)``.
    """

    mask: Float[Array | np.ndarray, "height width"]

    def observed(self, shape):
        require_image("fourier_mask", shape)
        require_broadcast("fourier_mask", "mask", tuple(np.shape(self.mask)), shape[:2])
        return *shape[:2], 2 * shape[2]

    def forward(self, x):
        self.observed(x.shape[1:])
        spectrum = self._kept(x) * jnp.fft.fft2(x, axes=AXES, norm="ortho")
        return jnp.concatenate([spectrum.real, spectrum.imag], axis=-1).astype(x.dtype)

    def adjoint(self, u):
        real, imaginary = jnp.split(u, 2, axis=-1)
        spectrum = self._kept(u) * (real + 1j * imaginary)
        return jnp.fft.ifft2(spectrum, axes=AXES, norm="ortho").real.astype(u.dtype)

    def pinv(self, u):
        def inverse(singular):
            return jnp.where(singular > 0, 1 / jnp.where(singular > 0, singular, 1) ** 2, 0)

        return self.filtered(self.adjoint(u), inverse)

    def filtered(self, x, gain):
        power = jnp.broadcast_to(self._kept(x), (*x.shape[1:3], 1)) ** 2
        opposite = jnp.roll(jnp.flip(power, (0, 1)), (1, 1), (0, 1))
        factors = gain(jnp.sqrt((power + opposite) / 2))
        spectrum = jnp.fft.fft2(x, axes=AXES) * factors
        return jnp.fft.ifft2(spectrum, axes=AXES).real.astype(x.dtype)

    def _kept(self, like: Array) -> Array:
        return jnp.asarray(self.mask, like.dtype)[..., None]


@register("operator")
def fourier_mask(mask: Any) -> FourierMask:
    """Return the operator that keeps some frequencies of an image.

    The measurement is ``[height, width, 2 channels]``: real parts, then imaginary ones.

    Args:
        mask: ``[height, width]``, 1 where a frequency of `numpy.fft.fft2` (the lowest first) is
            measured and 0 where it is not; axes of 1 broadcast.

    Raises:
        ValueError: other values than 0 and 1, or none measured; when used, another shape.
    """
    found = numbers("fourier_mask", "mask", mask, (2,))
    if not isinstance(found, jax.core.Tracer):
        if not np.all((found == 0) | (found == 1)):
            raise ValueError("guidance.fourier_mask: mask has other values than 0 and 1")
        if not found.any():
            raise ValueError("guidance.fourier_mask: mask is 0 everywhere: nothing is measured")
    return FourierMask(found)
