"""The block of vision transformers that encode images: pre-norm attention and MLP."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .attention import Attention
from .dense import linear


def gelu(x: Array) -> Array:
    """Return ``x Phi(x)`` (arXiv 1606.08415), exactly."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Array) -> Array:
    """Return ``x sigmoid(1.702 x)``, the approximation of CLIP's authors."""
    return x * jax.nn.sigmoid(1.702 * x)


def layer_norm(width: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation with scale and bias, in float32."""
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=jnp.float32, rngs=rngs)


class LayerScale(nnx.Module):
    """A learnt factor of every channel (arXiv 2103.17239, eq. 4)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        return x * self.scale[...]


class EncoderBlock(nnx.Module):
    """A pre-norm transformer block (arXiv 2010.11929).

    Args:
        width, heads: of the transformer.
        epsilon: of the normalisations.
        activation: of the MLP.
        scaled: whether both branches are scaled channel by channel before they are added.
        dtype: compute type of the matrix products.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        epsilon: float,
        activation: Callable[[Array], Array],
        scaled: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.dtype, self.activation, self.scaled = dtype, activation, scaled
        self.attention_norm = layer_norm(width, epsilon, rngs)
        self.mlp_norm = layer_norm(width, epsilon, rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.mlp_in = linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.mlp_out = linear(4 * width, width, dtype=dtype, rngs=rngs)
        if scaled:
            self.attention_scale, self.mlp_scale = LayerScale(width), LayerScale(width)

    def __call__(self, x: Float[Array, "batch token width"], grid: tuple[int, int]) -> Array:
        h = self.attention(self.attention_norm(x).astype(self.dtype), grid)
        x = x + (self.attention_scale(h) if self.scaled else h)
        h = self.mlp_out(self.activation(self.mlp_in(self.mlp_norm(x).astype(self.dtype))))
        return x + (self.mlp_scale(h) if self.scaled else h)
