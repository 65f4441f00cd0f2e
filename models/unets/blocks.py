"""Blocks of EDM's UNets, shared by `SongUNet` and `DhariwalUNet` (arXiv 2206.00364)."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ...core.sites import ATTENTION, BLOCK, around, at_site
from ..layers.attention import attend
from ..layers.convolution import Convolution
from ..layers.starts import Rngs, Start
from .stages import DOWN, UP, Stage


@dataclasses.dataclass(frozen=True)
class Style:
    """What all blocks of a network have in common.

    Attributes:
        embedding: width of the embedding of noise level and condition.
        adaptive_scale: the embedding scales and shifts the second norm's output, instead of being
            added to its input.
        skip_scale: factor after each residual sum.
        epsilon: of the group norms.
        dropout: share of the activations before the second convolution that training drops.
        taps: of the filter that goes with resampling, one axis.
        project_resampled: a 1x1 convolution on the residual path wherever it is resampled.
        channels_per_head: of the attention; None for a single head.
        start, last, attention: how layers start: in general, the last of a residual branch, the
            projection to query, key and value.
        dtype: compute type of the convolutions; norms and embeddings stay float32.
    """

    embedding: int
    adaptive_scale: bool
    skip_scale: float
    epsilon: float
    dropout: float
    taps: tuple[float, ...]
    project_resampled: bool
    channels_per_head: int | None
    start: Start
    last: Start
    attention: Start
    dtype: Any


def downsampled(
    x: Float[Array, "batch h w c"], taps: Sequence[float], padding: int | None = None
) -> Float[Array, "batch h2 w2 c"]:
    """Filter images and keep every other pixel of every other row.

    Args:
        x: images.
        taps: of the filter along one axis, an even number; their sum is divided out.
        padding: rows and columns of zeros on each side; half of the filter's if None.
    """
    padding = (len(taps) - 1) // 2 if padding is None else padding
    for axis in (1, 2):
        x = _padded(x, axis, padding)
        last = x.shape[axis] - len(taps) + 1
        x = jnp.asarray(
            sum(
                tap / sum(taps) * jax.lax.slice_in_dim(x, k, k + last, stride=2, axis=axis)
                for k, tap in enumerate(taps)
            )
        )
    return x


def upsampled(
    x: Float[Array, "batch h w c"], taps: Sequence[float]
) -> Float[Array, "batch 2*h 2*w c"]:
    """Put zeros between pixels and rows and filter: the transpose of `downsampled`, times four."""
    size = len(taps)
    for axis in (1, 2):
        count = 2 * x.shape[axis]
        x = _padded(x, axis, size - 1 - (size - 1) // 2, between=1)
        x = jnp.asarray(
            sum(
                2 * tap / sum(taps) * jax.lax.slice_in_dim(x, k, k + count, axis=axis)
                for k, tap in enumerate(reversed(taps))
            )
        )
    return x


def _padded(x: Array, axis: int, sides: int, between: int = 0) -> Array:
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (sides, sides, between)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)


def conv(
    fan_in: int, fan_out: int, size: int, start: Start, *, dtype, rngs, padding: int | None = None
) -> nnx.Conv:
    """Return a convolution of odd ``size``; without ``padding`` it keeps the resolution."""
    kind = Convolution if padding is None else nnx.Conv
    padding = size // 2 if padding is None else padding
    return kind(
        fan_in,
        fan_out,
        (size, size),
        padding=((padding, padding),) * 2,
        kernel_init=start.kernel,
        bias_init=start.bias(fan_in * size * size),
        dtype=dtype,
        rngs=rngs,
    )


def linear(fan_in: int, fan_out: int, start: Start, *, rngs, use_bias: bool = True) -> nnx.Linear:
    """Return a linear layer of an embedding, computed in float32."""
    return nnx.Linear(
        fan_in,
        fan_out,
        use_bias=use_bias,
        kernel_init=start.kernel,
        bias_init=start.bias(fan_in),
        dtype=jnp.float32,
        rngs=rngs,
    )


def groups_of(channels: int) -> int:
    """Return into how many groups a norm divides channels: at most 32, each of 4 or more.

    Raises:
        ValueError: channels that do not divide into the groups.
    """
    groups = min(32, channels // 4)
    if not groups or channels % groups:
        raise ValueError(
            f"{channels} channels do not divide into {groups} groups of equal size: choose "
            f"model_channels and channel_mult so that every width, and every sum of two that meet "
            f"at a skip connection, is a multiple of 4 up to 128 and of 32 beyond"
        )
    return groups


def group_norm(channels: int, epsilon: float, *, rngs) -> nnx.GroupNorm:
    """Return a group norm over the groups of `groups_of`, which says what it raises.

    It runs in float32 whatever the compute type: its statistics do not survive bfloat16.
    """
    return nnx.GroupNorm(
        channels,
        groups_of(channels),
        epsilon=epsilon,
        use_fast_variance=False,
        dtype=jnp.float32,
        rngs=rngs,
    )


def heads_of(stage: Stage, channels_per_head: int | None) -> int:
    """Return how many heads a block's attention has; None stands for a single one.

    Raises:
        ValueError: channels that do not divide into heads.
    """
    heads = 1 if channels_per_head is None else stage.fan_out // channels_per_head
    if not heads or stage.fan_out % heads:
        raise ValueError(
            f"{stage.name}: {stage.fan_out} channels do not divide into heads of "
            f"{channels_per_head}"
        )
    return heads


class StagedBlock(nnx.Module):
    """What the blocks of all UNets here do alike: the modes around them, resampling, dropout.

    A subclass has ``_run(embedding, modes, keys, x)``.

    Args:
        stage: its channels and its place in the network.
        dropout: share of the activations before the second convolution that training drops.
        taps: of the filter that goes with resampling, one axis.
        dtype: compute type, and that of the features.

    Raises:
        ValueError: dropout out of range, or taps that are no filter.
    """

    def __init__(self, stage: Stage, *, dropout: float, taps: Sequence[float], dtype):
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if not taps or len(taps) % 2 or sum(taps) <= 0:
            raise ValueError(
                f"resample_filter must have an even number of taps with a positive sum, such as "
                f"(1, 1) or (1, 3, 3, 1), got {taps}"
            )
        self.stage, self.dropout, self.taps, self.dtype = stage, dropout, tuple(taps), dtype

    def __call__(
        self,
        x: Float[Array, "batch h w fan_in"],
        embedding: Float[Array, "batch width"],
        modes: tuple = (),
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch h2 w2 fan_out"]:
        """Run the block.

        Args:
            x: features; the skip connection that the block takes is among their channels.
            embedding: of noise level and condition.
            modes: pairs (mode, where) that hold in this block.
            keys: of dropout, one a sample; None drops nothing.

        Raises:
            ValueError: a mode that leaves out a block that changes the shape.
        """
        held = at_site(modes, BLOCK)
        if not self.stage.keeps_shape:
            held = tuple((_Fitting(mode, self.stage), where) for mode, where in held)
        return around(held, BLOCK, partial(self._run, embedding, modes, keys))(x)

    def _run(self, embedding, modes, keys, x):
        raise NotImplementedError

    def _resampled(self, x):
        if self.stage.resample is None:
            return x
        return (downsampled if self.stage.resample == DOWN else upsampled)(x, self.taps)

    def _dropped(self, x, keys):
        if keys is None or not self.dropout:
            return x
        keep = 1 - self.dropout

        def drop(key, one):
            key = jax.random.fold_in(key, self.stage.block)
            return jnp.where(jax.random.bernoulli(key, keep, one.shape), one / keep, 0)

        return jax.vmap(drop)(keys, x)


class _Fitting:
    """A mode around a block that changes the shape, held to giving what the block gives."""

    site = BLOCK

    def __init__(self, mode: Any, stage: Stage):
        self._mode, self._stage = mode, stage

    def block(self, run, x):
        stage = self._stage
        side = {None: 1, DOWN: 1 / 2, UP: 2}[stage.resample]
        batch, rows, columns, _ = x.shape
        out = (batch, int(rows * side), int(columns * side), stage.fan_out)
        found = self._mode.block(run, x)
        if found.shape != out:
            raise ValueError(
                f"the mode {self._mode.name!r} cannot stand in for block {stage.block} "
                f"({stage.name}), which turns {x.shape[1:]} into {out[1:]}: choose blocks that "
                f"keep the shape"
            )
        return found


class UNetBlock(StagedBlock):
    """Residual block of two convolutions, and self-attention where its stage says so.

    Args:
        stage: its channels and its place in the network.
        style: what all blocks of the network have in common.

    Raises:
        ValueError: channels that do not divide into groups or heads.
    """

    def __init__(self, stage: Stage, style: Style, *, rngs: Rngs):
        super().__init__(stage, dropout=style.dropout, taps=style.taps, dtype=style.dtype)
        self.adaptive_scale, self.skip_scale = style.adaptive_scale, style.skip_scale
        fan_in, fan_out = stage.fan_in, stage.fan_out
        norm = partial(group_norm, epsilon=style.epsilon, rngs=rngs)
        make = partial(conv, dtype=style.dtype, rngs=rngs)
        self.norm0 = norm(fan_in)
        self.conv0 = make(fan_in, fan_out, 3, style.start)
        width = fan_out * (2 if style.adaptive_scale else 1)
        self.affine = linear(style.embedding, width, style.start, rngs=rngs)
        self.norm1 = norm(fan_out)
        self.conv1 = make(fan_out, fan_out, 3, style.last)
        if fan_in != fan_out or (stage.resample and style.project_resampled):
            self.skip = make(fan_in, fan_out, 1, style.start)
        if stage.attends:
            self.heads = heads_of(stage, style.channels_per_head)
            self.norm2 = norm(fan_out)
            self.qkv = make(fan_out, 3 * fan_out, 1, style.attention)
            self.proj = make(fan_out, fan_out, 1, style.last)

    def _run(self, embedding, modes, keys, x):
        h = self._resampled(jax.nn.silu(self.norm0(x)).astype(self.dtype))
        h = self.conv0(h)
        shift = self.affine(embedding)[:, None, None]
        if self.adaptive_scale:
            scale, shift = jnp.split(shift, 2, axis=-1)
            h = jax.nn.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = jax.nn.silu(self.norm1(h + shift))
        h = self.conv1(self._dropped(h.astype(self.dtype), keys))
        x = self._resampled(x)
        h = (h + (self.skip(x) if hasattr(self, "skip") else x)) * self.skip_scale
        if self.stage.attends:
            h = (h + self.proj(self._attended(h, modes))) * self.skip_scale
        return h.astype(self.dtype)

    def _attended(self, x, modes):
        batch, rows, columns, width = x.shape
        qkv = self.qkv(self.norm2(x).astype(self.dtype))
        # Query, key and value are neighbours in the published channels, not blocks of them.
        qkv = qkv.reshape(batch, rows * columns, self.heads, width // self.heads, 3)
        run = around(modes, ATTENTION, attend, (rows, columns))
        return run(*(qkv[..., i] for i in range(3))).reshape(x.shape)
