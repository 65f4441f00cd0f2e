"""3x3 convolutions, with fewer products on CPUs where their filters are known beforehand.

Lavin and Gray, arXiv 1509.09308, F(2x2, 3x3): for every 2x2 pixels of the output 16 products a
pair of channels rather than 36, between filters and tiles of the input that additions make.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

# From how many tiles in a batch and channels on fewer products may pay: below, 16 filters are more
# to read than a kernel is, or the additions weigh more than the products.
LEAST_TILES, LEAST_CHANNELS = 64, 32
# Pixels at a time, so that the tiles of a filter stay in the cache.
PIXELS = 4096
# Along one axis, what of a tile's four pixels the four transformed ones are: first + sign * second.
FIRST, SECOND = np.array([0, 1, 2, 1], np.int32), np.array([2, 2, 1, 3], np.int32)
SIGN = np.array([-1, 1, -1, -1], np.float32)
# The first of the three products that each line of pixels adds, and the sign of the others.
LINES = np.array([0, 1], np.int32), np.array([1, -1], np.float32)


class Prepared(NamedTuple):
    """A kernel that was prepared for many uses.

    Attributes:
        kernel: as it acts.
        filters: `filters_of` it; None where they would save nothing.
    """

    kernel: Float[Array, "size size in out"]
    filters: Float[Array, "filter fan_in fan_out"] | None


def prepared(kernel: Float[Array, "size size in out"]) -> Prepared:
    """Return a kernel with its filters, where they may save time: on CPUs, in float32.

    On other devices libraries choose for themselves, and fewer bits do not survive the additions.
    """
    wide = kernel.ndim == 4 and min(kernel.shape[2:]) >= LEAST_CHANNELS
    worth = wide and kernel.shape[:2] == (3, 3) and kernel.dtype == jnp.float32
    on_cpu = jax.default_backend() == "cpu"
    return Prepared(kernel, filters_of(kernel) if worth and on_cpu else None)


def filters_of(kernel: Float[Array, "3 3 in out"]) -> Float[Array, "filter fan_in fan_out"]:
    """Return ``G g G'``, G = [[1, 0, 0], [1, 1, 1]/2, [1, -1, 1]/2, [0, 0, 1]]."""

    def along(first, second, third):
        outer = first + third
        return first, (outer + second) / 2, (outer - second) / 2, third

    return jnp.stack([one for row in along(*kernel) for one in along(*row)])


def convolve(
    x: Float[Array, "batch h w in"], kernel: Float[Array, "size size in out"] | Prepared
) -> Float[Array, "batch h w out"]:
    """Convolve with a kernel of odd size, in the type of ``x``, zeros around the image."""
    if isinstance(kernel, Prepared):
        batch, rows, columns, _ = x.shape
        tiled = not rows % 2 and not columns % 2 and x.dtype == jnp.float32
        if kernel.filters is not None and tiled and batch * rows * columns >= 4 * LEAST_TILES:
            return _in_parts(x, kernel.filters)
        kernel = kernel.kernel
    return jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _in_parts(x: Array, filters: Array) -> Array:
    """Convolve so many images at a time that their tiles stay in the cache."""
    batch, rows, columns, _ = x.shape
    most = max(1, PIXELS // (rows * columns))
    part = next(size for size in range(min(most, batch), 0, -1) if batch % size == 0)
    if part == batch:
        return convolve_tiles(x, filters)
    parts = x.reshape(-1, part, *x.shape[1:])
    y = jax.lax.map(lambda one: convolve_tiles(one, filters), parts)
    return y.reshape(batch, rows, columns, -1)


def convolve_tiles(
    x: Float[Array, "batch h w in"], filters: Float[Array, "filter fan_in fan_out"]
) -> Float[Array, "batch h w out"]:
    """Convolve images of even sides: ``A' [U * (B' d B)] A`` of every 4x4 tile d, two apart.

    The products are a loop over the 16 filters, which is one product to compile.
    """
    batch, rows, columns, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def pixels(row, column):
        size = (batch, rows - 1, columns - 1, channels)
        return jax.lax.dynamic_slice(padded, (0, row, column, 0), size)[:, ::2, ::2]

    def product(_, one):
        (row, row2, sign), (column, column2, other), taps = one
        above = pixels(row, column) + other * pixels(row, column2)
        tile = above + sign * (pixels(row2, column) + other * pixels(row2, column2))
        return None, tile.reshape(-1, channels) @ taps

    down = tuple(np.repeat(part, 4) for part in (FIRST, SECOND, SIGN))
    across = tuple(np.tile(part, 4) for part in (FIRST, SECOND, SIGN))
    _, products = jax.lax.scan(product, None, (down, across, filters))

    # Loops again: what is added here one by one, compilers would add anew in all that reads it.
    halves = jax.lax.map(partial(_line, products.reshape(4, 4, -1, filters.shape[2])), LINES)
    quarters = jax.lax.map(partial(_line, halves.swapaxes(0, 1)), LINES)
    y = quarters.reshape(2, 2, batch, rows // 2, columns // 2, -1)
    return y.transpose(2, 3, 1, 4, 0, 5).reshape(batch, rows, columns, -1)


def _line(products: Float[Array, "4 ..."], line: tuple[Array, Array]) -> Float[Array, "..."]:
    """Return one of the two lines of pixels that four products make: a + b + c, or b - c - d."""
    first, sign = line
    a, b, c = jax.lax.dynamic_slice_in_dim(products, first, 3)
    return a + sign * (b + c)


class Convolution(nnx.Conv):
    """`nnx.Conv` of odd size and stride 1, zeros around the image; its kernel may be prepared."""

    def __call__(
        self, inputs: Float[Array, "batch h w in"], out_sharding: Any = None
    ) -> Float[Array, "batch h w out"]:
        """Convolve, in the compute type."""
        kernel = self.kernel.get_value()
        if not isinstance(kernel, Prepared):
            return super().__call__(inputs, out_sharding)
        y = convolve(inputs.astype(self.dtype or inputs.dtype), kernel)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def prepared(self) -> Prepared:
        """Return the kernel, prepared for many uses."""
        return prepared(self.kernel[...])
