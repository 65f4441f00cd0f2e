"""Attention, as every network here computes it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.sites import ATTENTION, around
from .dense import linear


def attend(
    query: Float[Array, "batch token head feature"],
    key: Float[Array, "batch source head feature"],
    value: Float[Array, "batch source head feature"],
    **options,
) -> Float[Array, "batch token head feature"]:
    """Return plain attention; of float16 in float32, since not every device multiplies float16.

    Args:
        query, key, value: heads apart.
        options: as `jax.nn.dot_product_attention` takes them, such as ``mask``.
    """
    working = jnp.float32 if query.dtype == jnp.float16 else query.dtype
    arrays = (array.astype(working) for array in (query, key, value))
    return jax.nn.dot_product_attention(*arrays, **options).astype(query.dtype)


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
