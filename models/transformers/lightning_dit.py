"""LightningDiT: a DiT with RMSNorm, SwiGLU and rotary positions (Yao et al., arXiv 2501.01423).

It works on the 32 channels of VA-VAE's latents, 16 times smaller than the image, standardised
channel by channel with the statistics of the data set, and predicts the velocity of the linear
path, time 1 being the data.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ...core.sites import BLOCK, around
from ..layers.attention import Attention
from ..layers.dense import linear, modulate, zeros
from ..preconditioning import from_config
from ..spec import Spec, class_conditional
from .dit import DiT


def rms_norm(width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Root-mean-square normalisation with a learned scale, in float32."""
    return nnx.RMSNorm(width, epsilon=1e-6, dtype=jnp.float32, rngs=rngs)


@lru_cache(maxsize=32)
def rotations(features: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines of 2-D rotary positions, each ``[rows * columns, features / 2]``.

    The first half of the pairs of features turns with the row, the second with the column, pair i
    of a half by ``10000^(-4 i / features)`` a token.

    Args:
        features: of one head, divisible by 4.
        rows, columns: of the grid of tokens.

    Source: Su et al., arXiv 2104.09864, in two dimensions as in EVA-02, arXiv 2303.11331.
    """
    frequencies = 10000.0 ** -(np.arange(features // 4) * 4 / features)
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (row, column)]
    whole = np.concatenate(angles, axis=1)
    return np.cos(whole).astype(np.float32), np.sin(whole).astype(np.float32)


def rotate(
    heads: Float[Array, "batch token head feature"], grid: tuple[int, int]
) -> Float[Array, "batch token head feature"]:
    """Turn neighbouring features, as pairs, by the position of their token."""
    cosine, sine = (table[:, None] for table in rotations(heads.shape[-1], *grid))
    even, odd = heads[..., 0::2].astype(jnp.float32), heads[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cosine - odd * sine, odd * cosine + even * sine], axis=-1)
    return turned.reshape(heads.shape).astype(heads.dtype)


class RotaryAttention(Attention):
    """Self-attention with rotary positions, and optional normalisation of queries and keys."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool, dtype, rngs: nnx.Rngs):
        if width % (4 * heads):
            raise ValueError(
                f"width {width} must be divisible by 4 times the heads ({heads}): rotary positions "
                f"turn pairs of features by row and by column"
            )
        super().__init__(width, heads, dtype=dtype, rngs=rngs)
        self.qk_norm = qk_norm
        if qk_norm:
            self.query_norm = rms_norm(width // heads, rngs)
            self.key_norm = rms_norm(width // heads, rngs)

    def compared(self, query, key, grid):
        # Before modes step in: blurring the turned queries blurs the weights of attention.
        if self.qk_norm:
            query = self.query_norm(query).astype(query.dtype)
            key = self.key_norm(key).astype(key.dtype)
        return rotate(query, grid), rotate(key, grid)


class LightningBlock(nnx.Module):
    """One adaLN-Zero block with SwiGLU; the identity at initialisation."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        qk_norm: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.attention_norm = rms_norm(width, rngs)
        self.mlp_norm = rms_norm(width, rngs)
        self.attention = RotaryAttention(width, heads, qk_norm=qk_norm, dtype=dtype, rngs=rngs)
        # Three matrices of two thirds of the width have as many numbers as two of the whole.
        hidden = 2 * int(width * mlp_ratio) // 3
        self.mlp_in = linear(width, 2 * hidden, dtype=dtype, rngs=rngs)
        self.mlp_out = linear(hidden, width, dtype=dtype, rngs=rngs)
        self.modulation = linear(width, 6 * width, dtype=dtype, rngs=rngs, kernel_init=zeros)

    def __call__(self, x, embedding, grid, modes=()):
        return around(modes, BLOCK, partial(self._run, embedding, grid, modes))(x)

    def _run(self, embedding, grid, modes, x):
        parts = jnp.split(self.modulation(jax.nn.silu(embedding)), 6, axis=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        h = modulate(self.attention_norm(x), shift_a, scale_a).astype(self.dtype)
        x = x + gate_a[:, None] * self.attention(h, grid, modes)
        h = modulate(self.mlp_norm(x), shift_m, scale_m).astype(self.dtype)
        gate, value = jnp.split(self.mlp_in(h), 2, axis=-1)
        return x + gate_m[:, None] * self.mlp_out(jax.nn.silu(gate) * value)


class LightningDiT(DiT):
    """Diffusion transformer ``(x, time, label) -> velocity``.

    Args:
        qk_norm: normalise queries and keys; off in the published network.
        fields: the others are those of `DiT`. ``mlp_ratio`` is that of an MLP with as many
            parameters, and a head's features, ``width / heads``, have to be divisible by 4.

    Raises:
        ValueError: sizes that do not divide.
    """

    block = LightningBlock
    norm = staticmethod(rms_norm)

    @classmethod
    def published(cls) -> dict[str, Any]:
        """Return what all published sizes have in common."""
        return dict(image_size=16, channels=32, num_classes=1000)


@register("network", "2501.01423", name="lightning_dit")
def lightning_dit_spec(
    size: str | None = None,
    dtype: str = "float32",
    latent: bool | None = None,
    preconditioner: str | Mapping[str, Any] = "flow",
    **fields: Any,
) -> Spec:
    """Read the model section of a LightningDiT: fields of the class, and four of this function.

    ``size`` is a published one, "XL/1"; ``preconditioner`` is "flow", the linear path.
    """
    chosen = from_config(preconditioner)
    return class_conditional(
        LightningDiT, "lightning_dit", chosen, size=size, dtype=dtype, latent=latent, fields=fields
    )
