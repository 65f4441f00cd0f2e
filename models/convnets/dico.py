"""DiCo: a U-shaped convolutional network with compact channel attention (arXiv 2505.11196)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...core.registry import register
from ...core.sites import (
    BLOCK,
    CONDITION_EMBEDDING,
    H_SPACE,
    SKIP,
    TIME_EMBEDDING,
    around,
    at_site,
    changed,
    for_layer,
    require_offered,
)
from ..layers.dense import linear, modulate, plain_norm, small_normal, xavier, zeros
from ..layers.frequencies import TIME_FREQUENCIES, time_features
from ..layers.labels import label_or_null, where_known
from ..layers.stacks import stack, through
from ..preconditioning import from_config
from ..spec import Spec, class_conditional

# name -> (width, blocks of each stage, factor of the hidden width), arXiv 2505.11196 and its code.
SIZES = {
    "S": (128, (5, 4, 4, 4, 4), 2.0),
    "B": (256, (5, 4, 4, 4, 4), 2.0),
    "L": (352, (9, 8, 9, 8, 9), 2.0),
    "XL": (416, (9, 9, 10, 9, 9), 2.0),
    "H": (416, (14, 12, 10, 12, 14), 4.0),
}
# A stage's name, and its width in multiples of the network's. The last stage keeps the width of
# the one before, whose embedding it takes.
STAGES = {"encoder_1": 1, "encoder_2": 2, "middle": 4, "decoder_2": 2, "decoder_1": 2}
# Widths of the embeddings, in multiples of the network's.
EMBEDDINGS = (1, 2, 4)


def conv(
    fan_in: int,
    fan_out: int,
    size: int,
    *,
    dtype,
    rngs: nnx.Rngs,
    kernel_init=xavier,
    use_bias: bool = True,
    groups: int = 1,
) -> nnx.Conv:
    """Return a convolution that keeps the resolution, in one group of channels or several."""
    return nnx.Conv(
        fan_in,
        fan_out,
        (size, size),
        padding=((size // 2, size // 2),) * 2,
        use_bias=use_bias,
        kernel_init=kernel_init,
        feature_group_count=groups,
        dtype=dtype,
        rngs=rngs,
    )


def pixel_unshuffle(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h/2 w/2 4*c"]:
    """Put the pixels of each 2x2 square among the channels, those of one channel side by side."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, 4 * channels)


def pixel_shuffle(x: Float[Array, "batch h w channel"]) -> Float[Array, "batch 2*h 2*w channel/4"]:
    """Undo `pixel_unshuffle`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, 2 * height, 2 * width, channels // 4)


class ChannelAttention(nnx.Module):
    """Compact channel attention: a weight in (0, 1) for each channel, from the channels' means."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        self.linear = linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch 1 1 c"]:
        return jax.nn.sigmoid(self.linear(x.mean(axis=(1, 2), keepdims=True)))


class Block(nnx.Module):
    """Depth-wise convolution and MLP, each adaLN-Zero; the identity at initialisation."""

    def __init__(self, width: int, *, mlp_ratio: float, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        make = partial(linear, dtype=dtype, rngs=rngs)
        self.norm = plain_norm(width, rngs)
        self.conv_in = make(width, width)
        self.conv = conv(width, width, 3, groups=width, dtype=dtype, rngs=rngs)
        self.attention = ChannelAttention(width, dtype=dtype, rngs=rngs)
        self.conv_out = make(width, width)
        hidden = int(width * mlp_ratio)
        self.mlp_in, self.mlp_out = make(width, hidden), make(hidden, width)
        self.modulation = make(width, 6 * width, kernel_init=zeros)

    def __call__(self, x, embedding, modes=()):
        return around(modes, BLOCK, partial(self._run, embedding))(x)

    def _run(self, embedding, x):
        parts = jnp.split(self.modulation(jax.nn.silu(embedding))[:, None], 6, axis=-1)
        shift_c, scale_c, gate_c, shift_m, scale_m, gate_m = parts
        h = modulate(self.norm(x), shift_c, scale_c).astype(self.dtype)
        h = jax.nn.gelu(self.conv(self.conv_in(h)), approximate=False)
        x = x + gate_c[:, None] * self.conv_out(h * self.attention(h))
        h = modulate(self.norm(x), shift_m, scale_m).astype(self.dtype)
        h = jax.nn.gelu(self.mlp_in(h), approximate=False)
        return x + gate_m[:, None] * self.mlp_out(h)


class TimeEmbedding(nnx.Module):
    """Two-layer MLP of the time's sinusoidal features."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        make = partial(linear, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        self.first, self.last = make(TIME_FREQUENCIES, width), make(width, width)

    def __call__(self, time: Float[Array, " batch"]) -> Float[Array, "batch width"]:
        return self.last(jax.nn.silu(self.first(time_features(time))))


class DiCo(nnx.Module):
    """Diffusion ConvNet, ``(x, time, label) -> output`` in the network's own coordinates.

    Five stages of blocks at three resolutions, without patches: ``encoder_1``, ``encoder_2``,
    ``middle``, ``decoder_2`` and ``decoder_1``, of one, two, four, two and two times the width.
    Every width has embeddings of time and label of its own. At the sites of the embeddings the
    three are one array, at ``h_space`` stands the output of ``middle``, and the blocks are counted
    through all stages.

    Args:
        image_size: usual height and width of the input, divisible by 4.
        channels: input channels.
        width: of the finest resolution.
        depths: blocks of the five stages.
        num_classes: real classes; 0 builds an unconditional network.
        null_class: whether the label tables have one more row, the null class, last.
        mlp_ratio: hidden width of the blocks' MLP in multiples of theirs.
        learn_variance: double the output channels (the published sizes predict a variance too).
        scan_layers: keep the parameters of each stage's blocks stacked and loop over them with
            ``lax.scan``: compile time independent of depth.
        dtype: compute type of the matrix products; parameters stay float32.

    Raises:
        ValueError: an image size that cannot be halved twice, depths that are not five, or none.

    Source: Ai et al., arXiv 2505.11196.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        width: int,
        depths: Sequence[int],
        num_classes: int,
        null_class: bool = True,
        mlp_ratio: float = 2.0,
        learn_variance: bool = False,
        scan_layers: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if image_size % 4 or image_size < 4:
            raise ValueError(f"image_size {image_size} must be divisible by 4")
        if len(depths) != len(STAGES) or min(depths) < 1:
            raise ValueError(
                f"depths must be five numbers of blocks, of {', '.join(STAGES)}, got {depths}"
            )
        self.image_size, self.channels, self.width = image_size, channels, width
        self.num_classes, self.null_class = num_classes, null_class
        self.depths, self.dtype = tuple(depths), dtype
        self.out_channels = channels * (2 if learn_variance else 1)
        make = partial(conv, dtype=dtype, rngs=rngs)
        self.stem = make(channels, width, 3)
        self.time = nnx.List([TimeEmbedding(n * width, dtype=dtype, rngs=rngs) for n in EMBEDDINGS])
        if num_classes:
            self.label_tables = nnx.List(
                [
                    nnx.Embed(
                        num_classes + null_class,
                        n * width,
                        embedding_init=small_normal,
                        dtype=dtype,
                        rngs=rngs,
                    )
                    for n in EMBEDDINGS
                ]
            )
        for (name, n), depth in zip(STAGES.items(), self.depths, strict=True):
            block = partial(Block, n * width, mlp_ratio=mlp_ratio, dtype=dtype)
            setattr(self, name, stack(block, depth, scan_layers, rngs))
        self.down_1 = make(width, width // 2, 3, use_bias=False)
        self.down_2 = make(2 * width, width, 3, use_bias=False)
        self.up_2 = make(4 * width, 8 * width, 3, use_bias=False)
        self.join_2 = linear(4 * width, 2 * width, dtype=dtype, rngs=rngs)
        self.up_1 = make(2 * width, 4 * width, 3, use_bias=False)
        self.join_1 = linear(2 * width, 2 * width, dtype=dtype, rngs=rngs)
        self.final_norm = plain_norm(2 * width, rngs)
        self.final_modulation = linear(
            2 * width, 4 * width, dtype=dtype, rngs=rngs, kernel_init=zeros
        )
        self.final = make(2 * width, self.out_channels, 3, kernel_init=zeros)

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; without classes there is no condition to embed."""
        condition = (CONDITION_EMBEDDING,) if self.num_classes else ()
        return (TIME_EMBEDDING, *condition, BLOCK, H_SPACE, SKIP)

    @classmethod
    def fields(cls, name: str) -> dict[str, Any]:
        """Return the fields of a published size, S, B, L, XL or H.

        Raises:
            ValueError: no such size.
        """
        if name not in SIZES:
            raise ValueError(f"unknown DiCo size {name!r}; use one of {', '.join(SIZES)}")
        width, depths, mlp_ratio = SIZES[name]
        own = dict(width=width, depths=depths, mlp_ratio=mlp_ratio)
        return own | dict(image_size=32, channels=4, num_classes=1000, learn_variance=True)

    @classmethod
    def from_name(cls, name: str, **overrides) -> "DiCo":
        """Build a published size by name, on 32x32 latents of ImageNet: ``"XL"``."""
        return cls(**(cls.fields(name) | overrides))

    def __call__(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        modes: tuple = (),
    ) -> Float[Array, "batch h w out"]:
        """Run the network.

        Args:
            x: images of the network's channels; height and width divisible by 4.
            time: the network's time input.
            label: integers, ``num_classes`` being the null class; None is the null class.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`).

        Raises:
            ValueError: an input of other channels or of a size that does not divide, a mode at a
                site that is not offered or in a layer beyond the depth.
        """
        self._require(x, modes)
        one, two, four = self._embeddings(x.shape[0], time, label, modes)
        h = self.stem(x.astype(self.dtype))
        fine = h = self._stage("encoder_1", h, one, modes)
        h = pixel_unshuffle(self.down_1(h))
        coarse = h = self._stage("encoder_2", h, two, modes)
        h = pixel_unshuffle(self.down_2(h))
        h = changed(modes, H_SPACE, self._stage("middle", h, four, modes))
        coarse = changed(for_layer(modes, 1), SKIP, coarse)
        h = self.join_2(jnp.concatenate([pixel_shuffle(self.up_2(h)), coarse], axis=-1))
        h = self._stage("decoder_2", h, two, modes)
        fine = changed(for_layer(modes, 0), SKIP, fine)
        h = self.join_1(jnp.concatenate([pixel_shuffle(self.up_1(h)), fine], axis=-1))
        h = self._stage("decoder_1", h, two, modes)
        modulation = self.final_modulation(jax.nn.silu(two))[:, None]
        shift, scale = jnp.split(modulation, 2, axis=-1)
        h = modulate(self.final_norm(h), shift, scale).astype(self.dtype)
        return self.final(h).astype(jnp.float32)

    def _embeddings(self, batch, time, label, modes) -> list[Array]:
        """Return the embedding of time and label of each width."""
        embedding = jnp.concatenate([one(time) for one in self.time], axis=-1)
        embedding = changed(modes, TIME_EMBEDDING, embedding)
        if self.num_classes:
            classes = self.num_classes, self.null_class
            label = label_or_null(label, batch, *classes)
            condition = jnp.concatenate([one(label) for one in self.label_tables], axis=-1)
            condition = where_known(condition, label, *classes)
            rows = [one.embedding[: self.num_classes] for one in self.label_tables]
            table = jnp.concatenate(rows, axis=-1).astype(condition.dtype)
            embedding = embedding + changed(modes, CONDITION_EMBEDDING, condition, table)
        ends = [self.width * n for n in (EMBEDDINGS[0], EMBEDDINGS[0] + EMBEDDINGS[1])]
        return jnp.split(embedding, ends, axis=-1)

    def _stage(self, name, h, embedding, modes):
        place = list(STAGES).index(name)

        def run(block, h, held):
            return block(h, embedding, held)

        return through(
            getattr(self, name),
            self.depths[place],
            h,
            at_site(modes, BLOCK),
            run,
            first=sum(self.depths[:place]),
        )

    def _require(self, x, modes):
        if x.ndim != 4 or x.shape[3] != self.channels or any(n % 4 or not n for n in x.shape[1:3]):
            raise ValueError(
                f"this DiCo takes {self.image_size}x{self.image_size}x{self.channels} inputs, or "
                f"others of {self.channels} channels and sides divisible by 4, got {x.shape[1:]}"
            )
        depths = {BLOCK: sum(self.depths), SKIP: 2}
        for mode, where in modes:
            require_offered(((mode, where),), self.sites, depths.get(mode.site, 0))


@register("network", "2505.11196", name="dico")
def dico_spec(
    size: str | None = None,
    dtype: str = "float32",
    latent: bool | None = None,
    sigma_data: float = 0.5,
    preconditioner: str | Mapping[str, Any] = "discrete",
    **fields: Any,
) -> Spec:
    """Read the model section of a DiCo: fields of `DiCo`, and five of this function.

    ``size`` is a published one, "XL"; ``preconditioner`` "discrete" as published, or "edm" with
    ``sigma_data``.
    """
    # 250 ln(sigma)/4 spans about 660 units over [0.002, 80], the range the sinusoids expect.
    chosen = from_config(preconditioner, sigma_data=sigma_data, noise_scale=250.0)
    return class_conditional(
        DiCo, "dico", chosen, size=size, dtype=dtype, latent=latent, fields=fields
    )
