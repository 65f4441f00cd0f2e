"""The two-dimensional Haar wavelet transform: orthonormal, and its own inverse transposed.

Used by LiteVAE (Sadat et al., arXiv 2405.14477) as the first layer of its encoder.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BANDS = 4


def analysis(x: Float[Array | np.ndarray, "*batch h w c"]) -> Float[Array, "*batch h/2 w/2 4*c"]:
    """Cut images into bands of half the size, channels ordered (LL, LH, HL, HH).

    With a, b over c, d the pixels of a 2x2 square, ``LL = (a + b + c + d) / 2`` is twice their
    mean, ``LH = (a + b - c - d) / 2`` their change from top to bottom, ``HL = (a - b + c - d) / 2``
    from left to right and ``HH = (a - b - c + d) / 2`` across; each band has x's channels.

    Raises:
        ValueError: an odd height or width.
    """
    height, width = x.shape[-3:-1]
    if height % 2 or width % 2:
        raise ValueError(f"a Haar transform takes even sizes, got {height}x{width}: pad the image")
    a, b = x[..., 0::2, 0::2, :], x[..., 0::2, 1::2, :]
    c, d = x[..., 1::2, 0::2, :], x[..., 1::2, 1::2, :]
    top, bottom, left, right = a + b, c + d, a - b, c - d
    bands = (top + bottom, top - bottom, left + right, left - right)
    return jnp.concatenate(bands, axis=-1) / 2


def synthesis(
    bands: Float[Array | np.ndarray, "*batch h w channels"],
) -> Float[Array, "*batch 2*h 2*w channels/4"]:
    """Put bands back together: the inverse of `analysis`, and its transpose.

    Raises:
        ValueError: channels that are not four bands.
    """
    *batch, height, width, channels = bands.shape
    if channels % BANDS:
        raise ValueError(f"{channels} channels are not {BANDS} bands of equally many")
    low, vertical, horizontal, diagonal = jnp.split(bands, BANDS, axis=-1)
    top, bottom = low + vertical, low - vertical
    left, right = horizontal + diagonal, horizontal - diagonal
    upper = jnp.stack([top + left, top - left], axis=-2)
    lower = jnp.stack([bottom + right, bottom - right], axis=-2)
    # [..., row, column, 2 rows, 2 columns, channel] to rows and columns of pixels.
    square = jnp.stack([upper, lower], axis=-3) / 2
    square = jnp.moveaxis(square, -3, -4)
    return square.reshape(*batch, 2 * height, 2 * width, channels // BANDS)


def pyramid(x: Float[Array | np.ndarray, "*batch h w c"], levels: int) -> list[Array]:
    """Transform ``levels`` times, the low band again and again; finest level first.

    Level l (from 1), of size ``h / 2^l``, is divided by ``2^l``, which keeps its low band in the
    images' range (arXiv 2405.14477).

    Raises:
        ValueError: a size that cannot be halved so often.
    """
    found, channels = [], x.shape[-1]
    for level in range(1, levels + 1):
        bands = analysis(x)
        found.append(bands / 2**level)
        x = bands[..., :channels]
    return found
