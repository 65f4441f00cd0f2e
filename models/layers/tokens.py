"""Images as tokens: patches on a grid, their positions, and the sizes that divide into them."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float


def sincos_positions(
    width: int, rows: int, columns: int, spacing: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Fixed 2-D sine-cosine position embedding, ``[rows * columns, width]``, column half first.

    Args:
        width: of the embedding, divisible by 4.
        rows, columns: of the grid of tokens.
        spacing: from one row to the next and from one column to the next.
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width / 4))

    def embed(positions: np.ndarray) -> np.ndarray:
        angles = positions.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    down, across = np.arange(rows) * spacing[0], np.arange(columns) * spacing[1]
    row, column = np.meshgrid(down, across, indexing="ij")
    return np.concatenate([embed(column), embed(row)], axis=1).astype(np.float32)


def patchify(x: Float[Array, "batch h w c"], side: int) -> Float[Array, "batch token patch"]:
    """Cut images into row-major patches, each flattened as (row, column, channel)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side * channels)


def unpatchify(
    tokens: Float[Array, "batch token patch"], side: int, grid: tuple[int, int]
) -> Float[Array, "batch h w c"]:
    """Put patches back in place, on a grid of (rows, columns); the inverse of `patchify`."""
    rows, columns = grid
    x = tokens.reshape(tokens.shape[0], rows, columns, side, side, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], rows * side, columns * side, -1)


def require_dividing(image_size: int, patch_size: int, width: int, heads: int) -> None:
    """Refuse sizes that do not divide.

    Raises:
        ValueError: an image that is no whole number of patches, or a width that is not divisible
            by 4 and by the number of heads.
    """
    if image_size % patch_size:
        raise ValueError(f"image_size {image_size} is not divisible by patch_size {patch_size}")
    if width % heads or width % 4:
        raise ValueError(f"width {width} must be divisible by 4 and by heads ({heads})")


def token_grid(network: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of the tokens that a network cuts inputs of ``shape`` into.

    Args:
        network: with ``image_size``, ``channels`` and ``patch_size``.
        shape: of a batch of inputs.

    Raises:
        ValueError: other channels, or sides that the patches do not divide.
    """
    size, channels, p = network.image_size, network.channels, network.patch_size
    if len(shape) != 4 or shape[3] != channels or any(n % p or n < p for n in shape[1:3]):
        raise ValueError(
            f"this {type(network).__name__} takes {size}x{size}x{channels} inputs, or others of "
            f"{channels} channels and sides divisible by {p}, got {shape[1:]}"
        )
    return shape[1] // p, shape[2] // p
