"""Linear layers and norms of transformers, as they start, and what a condition does to them."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

xavier = nnx.initializers.xavier_uniform()
small_normal = nnx.initializers.normal(0.02)
zeros = nnx.initializers.zeros_init()


def linear(fan_in: int, fan_out: int, *, dtype, rngs, kernel_init=xavier) -> nnx.Linear:
    return nnx.Linear(
        fan_in, fan_out, kernel_init=kernel_init, bias_init=zeros, dtype=dtype, rngs=rngs
    )


def plain_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation without parameters, in float32: its statistics do not survive less."""
    return nnx.LayerNorm(
        width, epsilon=1e-6, use_bias=False, use_scale=False, dtype=jnp.float32, rngs=rngs
    )


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Apply a per-channel affine map to every token: ``x * (1 + scale) + shift``."""
    return x * (1 + scale[:, None]) + shift[:, None]
