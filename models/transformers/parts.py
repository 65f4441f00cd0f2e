"""What the diffusion transformers share: patches, positions, time features, self-attention."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ...core.sites import ATTENTION, around
from ..layers.attention import attend

TIME_FREQUENCIES = 256

xavier = nnx.initializers.xavier_uniform()
small_normal = nnx.initializers.normal(0.02)
zeros = nnx.initializers.zeros_init()


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


def time_features(time: Float[Array, " batch"]) -> Float[Array, "batch 256"]:
    """Sinusoidal features of the network's time input, cosines first, periods 2*pi to 2e4*pi."""
    half = TIME_FREQUENCIES // 2
    angles = time.astype(jnp.float32)[:, None] * jnp.exp(
        -math.log(10000.0) / half * jnp.arange(half, dtype=jnp.float32)
    )
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Apply a per-channel affine map to every token: ``x * (1 + scale) + shift``."""
    return x * (1 + scale[:, None]) + shift[:, None]


def linear(fan_in: int, fan_out: int, *, dtype, rngs, kernel_init=xavier) -> nnx.Linear:
    return nnx.Linear(
        fan_in, fan_out, kernel_init=kernel_init, bias_init=zeros, dtype=dtype, rngs=rngs
    )


def plain_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation without parameters, in float32: its statistics do not survive less."""
    return nnx.LayerNorm(
        width, epsilon=1e-6, use_bias=False, use_scale=False, dtype=jnp.float32, rngs=rngs
    )


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


def token_grid(network: nnx.Module, shape: tuple[int, ...]) -> tuple[int, int]:
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


class Attention(nnx.Module):
    """Multi-head self-attention with one fused qkv projection (rows ordered q, k, v)."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj = linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch token width"],
        grid: tuple[int, int],
        modes: tuple = (),
    ) -> Float[Array, "batch token width"]:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        q, k = self.compared(q, k, grid)
        run = around(modes, ATTENTION, attend, grid)
        return self.proj(run(q, k, v).reshape(batch, tokens, width))

    def compared(self, query: Array, key: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
        """Return queries and keys as they are compared; here positions were added before."""
        del grid
        return query, key
