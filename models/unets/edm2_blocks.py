"""Blocks of the EDM2 UNet, as configurations C to G of its paper build them (arXiv 2312.02696)."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.sites import ATTENTION, around
from ..layers.attention import attend
from ..layers.magnitude import (
    EPSILON,
    Fourier,
    MPConv,
    MPLinear,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise,
    pixel_norm,
    unit_kernel,
)
from ..layers.starts import Rngs
from .blocks import StagedBlock, groups_of, heads_of
from .stages import Stage

# He's uniform init as EDM has it, which config C gives to every layer (appendix B.3).
UNIFORM = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class Design:
    """What a configuration of the ladder does, figures 18 to 22.

    Attributes:
        group_norm: features are normalised in groups of channels over the whole image, in each
            block and before the output, and the embedding has a second layer; otherwise pixels
            are normalised, at the beginning of the encoder's blocks.
        unit_weights: the weights of each output act with norm 1.
        forced: training keeps the stored weights at norm ``sqrt(fan_in)``.
        unit_functions: activations, sums and concatenations keep the magnitude too, and what
            must have another gets a learned gain, zero at first.
    """

    group_norm: bool
    unit_weights: bool
    forced: bool
    unit_functions: bool

    def conv(self, fan_in: int, fan_out: int, size: int, *, dtype, rngs: Any) -> nnx.Module:
        """Return a convolution without bias."""
        if self.unit_weights:
            return MPConv(fan_in, fan_out, size, rngs=rngs)
        fields = dict(padding="SAME", use_bias=False, kernel_init=UNIFORM, dtype=dtype)
        return nnx.Conv(fan_in, fan_out, (size, size), **fields, rngs=rngs)

    def linear(self, fan_in: int, fan_out: int, *, rngs: Any) -> nnx.Module:
        """Return a linear layer without bias."""
        if self.unit_weights:
            return MPLinear(fan_in, fan_out, rngs=rngs)
        return nnx.Linear(fan_in, fan_out, use_bias=False, kernel_init=UNIFORM, rngs=rngs)

    def table(self, layer: Any) -> Float[Array, "in out"]:
        """Return the matrix that a linear layer multiplies by."""
        kernel = layer.kernel[...]
        return unit_kernel(kernel) if self.unit_weights else kernel

    def fourier(self, count: int, *, rngs: Rngs) -> Fourier:
        """Return Fourier features."""
        return Fourier(count, scale=math.sqrt(2) if self.unit_functions else 1.0, rngs=rngs)

    def silu(self, x: Array) -> Array:
        """Apply the activation."""
        return mp_silu(x) if self.unit_functions else jax.nn.silu(x)

    def add(self, a: Array, b: Array, t: float) -> Array:
        """Add two branches; ``t`` is the second one's part in a sum that keeps the magnitude."""
        return mp_sum(a, b, t) if self.unit_functions else a + b

    def join(self, a: Array, b: Array, t: float) -> Array:
        """Concatenate two branches; ``t`` as in `add`."""
        return mp_cat(a, b, t) if self.unit_functions else jnp.concatenate([a, b], axis=-1)


DESIGNS = {
    "C": Design(group_norm=True, unit_weights=False, forced=False, unit_functions=False),
    "D": Design(group_norm=True, unit_weights=True, forced=False, unit_functions=False),
    "E": Design(group_norm=True, unit_weights=True, forced=True, unit_functions=False),
    "F": Design(group_norm=False, unit_weights=True, forced=True, unit_functions=False),
    "G": Design(group_norm=False, unit_weights=True, forced=True, unit_functions=True),
}


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """What all blocks of a network have in common.

    Attributes:
        design: of the ladder.
        embedding: width of the embedding of noise level and condition.
        channels_per_head: of the attention.
        dropout: share of the activations before the second convolution that training drops.
        taps: of the filter that goes with resampling, one axis.
        res_balance, attn_balance: part of the residual branch, and of attention, in the sums.
        clip: bound of the features' values where they are kept at magnitude 1; None for none.
        dtype: compute type of the features; embeddings stay float32.
    """

    design: Design
    embedding: int
    channels_per_head: int
    dropout: float
    taps: tuple[float, ...]
    res_balance: float
    attn_balance: float
    clip: float | None
    dtype: Any


def scale_groups(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
    """Normalise groups of channels over the image, without their mean and in float32 (eq. 29)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = wide.reshape(*x.shape[:3], groups_of(x.shape[3]), -1)
    square = jnp.mean(wide**2, axis=(1, 2, 4), keepdims=True)
    return (wide / jnp.sqrt(square + EPSILON)).reshape(x.shape).astype(x.dtype)


class EDM2Block(StagedBlock):
    """Residual block, and cosine attention where its stage says so (figures 18 to 22).

    Args:
        stage: its channels and its place in the network.
        style: what all blocks of the network have in common.
        encoder: whether it is one of the encoder's.

    Raises:
        ValueError: channels that do not divide into groups or heads.
    """

    def __init__(self, stage: Stage, style: BlockStyle, *, encoder: bool, rngs: Rngs):
        super().__init__(stage, dropout=style.dropout, taps=style.taps, dtype=style.dtype)
        self.style, self.encoder = style, encoder
        design, fan_out = style.design, stage.fan_out
        conv = partial(design.conv, dtype=style.dtype, rngs=rngs)
        if design.group_norm:
            for channels in (stage.fan_in, fan_out):
                groups_of(channels)
        # From F on an encoder's block changes the number of channels before anything else.
        changed_first = encoder and not design.group_norm
        self.conv_res0 = conv(fan_out if changed_first else stage.fan_in, fan_out, 3)
        self.emb_linear = design.linear(style.embedding, fan_out, rngs=rngs)
        if design.unit_functions:
            self.emb_gain = nnx.Param(jnp.zeros(()))
        self.conv_res1 = conv(fan_out, fan_out, 3)
        if stage.fan_in != fan_out:
            self.conv_skip = conv(stage.fan_in, fan_out, 1)
        if stage.attends:
            self.heads = heads_of(stage, style.channels_per_head)
            self.attn_qkv = conv(fan_out, 3 * fan_out, 1)
            self.attn_proj = conv(fan_out, fan_out, 1)

    def _run(self, embedding, modes, keys, x):
        style, design = self.style, self.style.design
        if design.group_norm:
            y = self.conv_res0(self._resampled(design.silu(scale_groups(x))))
            y = scale_groups(y)
            x = self._projected(self._resampled(x))
        else:
            x = self._resampled(x)
            x = pixel_norm(self._projected(x)) if self.encoder else x
            y = self.conv_res0(design.silu(x))
            x = x if self.encoder else self._projected(x)
        y = design.silu(y * self._scale(embedding).astype(y.dtype))
        x = design.add(x, self.conv_res1(self._dropped(y, keys)), style.res_balance)
        if self.stage.attends:
            x = design.add(x, self.attn_proj(self._attended(x, modes)), style.attn_balance)
        if style.clip is not None and not design.group_norm:
            x = jnp.clip(x, -style.clip, style.clip)
        return x

    def _scale(self, embedding):
        gain = (self.emb_gain[...],) if self.style.design.unit_functions else ()
        return self.emb_linear(embedding, *gain)[:, None, None] + 1

    def _projected(self, x):
        return self.conv_skip(x) if hasattr(self, "conv_skip") else x

    def _attended(self, x, modes):
        batch, rows, columns, width = x.shape
        # Query, key and value are neighbours in the published channels, not blocks of them.
        qkv = self.attn_qkv(x).reshape(batch, rows * columns, self.heads, width // self.heads, 3)
        qkv = normalise(qkv, 3)
        run = around(modes, ATTENTION, attend, (rows, columns))
        return run(*(qkv[..., i] for i in range(3))).reshape(x.shape)
