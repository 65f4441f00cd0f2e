"""SongUNet: DDPM++ and NCSN++ (Song et al., arXiv 2011.13456) as EDM has them (arXiv 2206.00364).

DDPM++ has sinusoidal features of the noise level and 2x2 averages; NCSN++ Fourier features, wider
resampling filters and a pyramid of the input added to the encoder.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from ...core.registry import register
from ...core.sites import CONDITION_EMBEDDING, TIME_EMBEDDING, changed
from ..layers.frequencies import sinusoids
from ..layers.magnitude import is_constant
from ..layers.starts import Keys, Rngs, Start
from ..preconditioning import from_config, sigma_range
from ..spec import Spec, checked_fields, compute_type, label_of
from .backbone import Backbone, Passage, sample_keys
from .blocks import Style, UNetBlock, conv, downsampled, group_norm, linear, upsampled
from .stages import DOWN, Arrangement, arrange

EPSILON = 1e-6
FOURIER_SCALE = 16.0
EMBEDDINGS = ("positional", "fourier")
ENCODERS, DECODERS = ("standard", "skip", "residual"), ("standard", "skip")


def _xavier(gain: float) -> nnx.Initializer:
    return nnx.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


START, LAST, ATTENTION = Start(_xavier(1.0)), Start(_xavier(1e-5)), Start(_xavier(0.2**0.5))

# arXiv 2206.00364, appendix F: what the networks have, and what the data sets change.
NETWORKS = {
    "ddpmpp": {},
    "ncsnpp": dict(
        embedding_type="fourier",
        channel_mult_noise=2,
        encoder_type="residual",
        resample_filter=(1, 3, 3, 1),
    ),
}
DATA_SETS = {
    "cifar10": dict(image_size=32, channel_mult=(2, 2, 2), dropout=0.13),
    "ffhq64": dict(image_size=64, channel_mult=(1, 2, 2, 2), dropout=0.05),
    "afhqv2-64": dict(image_size=64, channel_mult=(1, 2, 2, 2), dropout=0.25),
}


def published(name: str) -> dict:
    """Return the fields of a published network, unconditional, with labels of augmentation.

    Raises:
        ValueError: an unknown name.
    """
    network, _, data = name.partition("-")
    if network not in NETWORKS or data not in DATA_SETS:
        raise ValueError(
            f"unknown SongUNet {name!r}; use one of "
            f"{', '.join(f'{n}-{d}' for n in NETWORKS for d in DATA_SETS)}"
        )
    return dict(channels=3, num_classes=0, augment_dim=9) | NETWORKS[network] | DATA_SETS[data]


def song_arrangement(
    image_size: int,
    model_channels: int,
    channel_mult: Sequence[int],
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> Arrangement:
    """Return the blocks of a `SongUNet` of these fields."""
    widths = [mult * model_channels for mult in channel_mult]
    return arrange(
        image_size, model_channels, widths, num_blocks, attn_resolutions, decoder_attends_last=True
    )


class FourierFeatures(nnx.Module):
    """Sines and cosines of the noise level at random frequencies, fixed from the start."""

    def __init__(self, channels: int, *, rngs: Rngs):
        freqs = FOURIER_SCALE * jax.random.normal(rngs.params(), (channels // 2,))
        self.freqs = nnx.Param(freqs)

    def __call__(self, time: Float[Array, " batch"]) -> Float[Array, "batch channels"]:
        """Return the sines, then the cosines."""
        angles = 2 * math.pi * time[:, None] * jax.lax.stop_gradient(self.freqs[...])
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class SongUNet(Backbone):
    """DDPM++ and NCSN++, ``(x, time, label) -> output`` in the network's own coordinates.

    Args:
        image_size: usual height and width of the input.
        channels: of the input.
        num_classes: real classes; 0 builds an unconditional network.
        null_class: whether there is a null class, ``num_classes``, an embedding of bias alone.
        augment_dim: numbers in a label of augmentation; 0 for a network that takes none.
        model_channels, channel_mult: width, and its multiple at each resolution, finest first.
        channel_mult_emb: width of the embedding, in multiples of ``model_channels``.
        num_blocks: blocks at each resolution of the encoder; the decoder has one more.
        attn_resolutions: at which the encoder's blocks, and the decoder's last, have attention.
        dropout: share of activations that training drops; a call drops with a key only.
        embedding_type: of the noise level, "positional" or "fourier".
        channel_mult_noise: features of the noise level, in multiples of ``model_channels``.
        encoder_type: "standard", "skip" or "residual": whether downsampled inputs are added.
        decoder_type: "standard", or "skip": the output is a sum over resolutions.
        resample_filter: taps along one axis, an even number.
        learn_variance: double the output channels.
        dtype: compute type of the convolutions; parameters stay float32.

    Modes step in at the embedding of the noise level (before that of the condition is added), at
    the condition's, at self-attention and blocks (both numbered in the order in which they run),
    at the bottleneck's output and at each skip connection.

    Raises:
        ValueError: sizes that do not divide, or an unknown type.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int = 0,
        null_class: bool = True,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
        learn_variance: bool = False,
        dtype=jnp.float32,
        rngs: Rngs,
    ):
        _require_one_of("embedding_type", embedding_type, EMBEDDINGS)
        _require_one_of("encoder_type", encoder_type, ENCODERS)
        _require_one_of("decoder_type", decoder_type, DECODERS)
        self.image_size, self.channels = image_size, channels
        self.num_classes, self.null_class = num_classes, null_class
        self.augment_dim, self.dtype = augment_dim, dtype
        self.encoder_type, self.decoder_type = encoder_type, decoder_type
        self.embedding_type, self.taps = embedding_type, tuple(resample_filter)
        self.arrangement = song_arrangement(
            image_size, model_channels, channel_mult, num_blocks, attn_resolutions
        )
        self.noise_channels = model_channels * channel_mult_noise
        if self.noise_channels % 2:
            raise ValueError(f"model_channels {model_channels} must be even")
        style = Style(
            embedding=model_channels * channel_mult_emb,
            adaptive_scale=False,
            skip_scale=math.sqrt(0.5),
            epsilon=EPSILON,
            dropout=dropout,
            taps=self.taps,
            project_resampled=True,
            channels_per_head=None,
            start=START,
            last=LAST,
            attention=ATTENTION,
            dtype=dtype,
        )
        rngs = Keys(rngs)
        self._make_embedding(style.embedding, rngs)
        self._make_encoder(style, rngs)
        self._make_decoder(style, channels * (2 if learn_variance else 1), rngs)

    @classmethod
    def from_name(cls, name: str, **overrides) -> "SongUNet":
        """Build a published network by name, ``"ddpmpp-cifar10"`` or ``"ncsnpp-ffhq64"``."""
        return cls(**(published(name) | overrides))

    def _make_embedding(self, width, rngs):
        noise = self.noise_channels
        if self.embedding_type == "fourier":
            self.map_noise = FourierFeatures(noise, rngs=rngs)
        if self.num_classes:
            self.map_label = linear(self.num_classes, noise, START, rngs=rngs)
        if self.augment_dim:
            self.map_augment = linear(self.augment_dim, noise, START, rngs=rngs, use_bias=False)
        self.map_layer0 = linear(noise, width, START, rngs=rngs)
        self.map_layer1 = linear(width, width, START, rngs=rngs)

    def _make_encoder(self, style, rngs):
        finest = self.arrangement.levels[0].label
        made = dict(dtype=self.dtype, rngs=rngs)
        blocks = {f"{finest}_conv": conv(self.channels, self.arrangement.width, 3, START, **made)}
        beside = self.channels
        for level in self.arrangement.levels:
            for stage in level.encoder:
                blocks[stage.name] = UNetBlock(stage, style, rngs=rngs)
                if stage.resample != DOWN:
                    continue
                if self.encoder_type == "skip":
                    name = f"{level.label}_aux_skip"
                    blocks[name] = conv(self.channels, stage.fan_out, 1, START, **made)
                if self.encoder_type == "residual":
                    # The padding lets the filter see beyond the edge what the convolution made.
                    padding = 1 + (len(self.taps) - 1) // 2
                    name = f"{level.label}_aux_residual"
                    blocks[name] = conv(beside, stage.fan_out, 3, START, padding=padding, **made)
                    beside = stage.fan_out
        self.enc = nnx.Dict(blocks)

    def _make_decoder(self, style, out_channels, rngs):
        blocks = {}
        for number, level in enumerate(self.arrangement.levels):
            for stage in level.decoder:
                blocks[stage.name] = UNetBlock(stage, style, rngs=rngs)
            if number == 0 or self.decoder_type == "skip":
                norm, out = f"{level.label}_aux_norm", f"{level.label}_aux_conv"
                blocks[norm] = group_norm(level.width, EPSILON, rngs=rngs)
                blocks[out] = conv(level.width, out_channels, 3, LAST, dtype=self.dtype, rngs=rngs)
        self.dec = nnx.Dict(blocks)

    def __call__(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        modes: tuple = (),
        *,
        augment: Float[Array, "batch augment"] | None = None,
        dropout_key: Key[Array, ""] | Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch h w out"]:
        """Run the network.

        Args:
            x: images; sides as in training unless a caller knows better.
            time: the network's time input.
            label: integers, ``num_classes`` being the null class; None is the null class.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`).
            augment: labels of the augmentation of training images; None is none.
            dropout_key: one key, or one a sample; None drops nothing.

        Raises:
            ValueError: as in `Backbone.require`; a mode that leaves out a block that changes the
                shape.
        """
        self.require(x, augment, modes)
        embedding = self._embedding(time, label, augment, modes)
        passage = Passage(embedding, modes, sample_keys(dropout_key, x.shape[0]))
        h, connections = self._encode(x.astype(self.dtype), passage)
        return self._decode(h, connections, passage).astype(jnp.float32)

    def _embedding(self, time, label, augment, modes):
        if self.embedding_type == "fourier":
            embedding = self.map_noise(time)
        else:
            embedding = sinusoids(time, self.noise_channels, endpoint=True, sine_first=True)
        embedding = changed(modes, TIME_EMBEDDING, embedding)
        if self.num_classes:
            gain = math.sqrt(self.num_classes)
            condition = self.map_label(gain * self.one_hot(label, time.shape[0]))
            table = gain * self.map_label.kernel[...] + self.map_label.bias[...]
            embedding = embedding + changed(modes, CONDITION_EMBEDDING, condition, table)
        if augment is not None:
            embedding = embedding + self.map_augment(augment)
        return jax.nn.silu(self.map_layer1(jax.nn.silu(self.map_layer0(embedding))))

    def _encode(self, x, passage):
        beside = x
        h = self.enc[f"{self.arrangement.levels[0].label}_conv"](x)
        connections = [h]
        for level in self.arrangement.levels:
            for stage in level.encoder:
                h = self.run(self.enc, stage, h, passage)
                if stage.resample == DOWN and self.encoder_type == "skip":
                    beside = downsampled(beside, self.taps)
                    h = h + self.enc[f"{level.label}_aux_skip"](beside)
                if stage.resample == DOWN and self.encoder_type == "residual":
                    beside = self.enc[f"{level.label}_aux_residual"](beside)
                    h = beside = (h + downsampled(beside, self.taps, padding=0)) * math.sqrt(0.5)
                connections.append(h)
        return h, connections

    def _decode(self, h, connections, passage):
        out = None
        ends = self.decode(h, connections, passage)
        for level, end in zip(reversed(self.arrangement.levels), ends, strict=True):
            if f"{level.label}_aux_norm" not in self.dec:
                continue
            last = jax.nn.silu(self.dec[f"{level.label}_aux_norm"](end)).astype(self.dtype)
            last = self.dec[f"{level.label}_aux_conv"](last)
            out = last if out is None else last + upsampled(out, self.taps)
        return out


def _require_one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{field} must be one of {', '.join(known)}, got {value!r}")


@register("network", "2011.13456", "2206.00364", name="song_unet")
def song_unet_spec(
    size: str | None = None,
    dtype: str = "float32",
    sigma_data: float = 0.5,
    preconditioner: str | Mapping[str, Any] = "edm",
    **fields: Any,
) -> Spec:
    """Read the model section of a `SongUNet`.

    Args:
        size: a published network, ``"ddpmpp-cifar10"``, whose fields the section's others replace;
            None leaves every field to the section.
        dtype, sigma_data, preconditioner: as for a DiT.
        fields: of `SongUNet`.

    Raises:
        ValueError: an unknown size or type, sizes that do not divide.
    """
    fields = (published(size) if size else {}) | fields
    fields = checked_fields(SongUNet, "song_unet", fields)
    compute = compute_type(dtype)

    def build(rngs):
        return SongUNet(dtype=compute, rngs=rngs, **fields)

    precondition = from_config(preconditioner, sigma_data=sigma_data)
    side = fields["image_size"]
    return Spec(
        build,
        label_of(fields),
        (side, side, fields["channels"]),
        precondition,
        sigma_range=sigma_range(precondition),
        frozen=is_constant,
    )
