"""EDM2UNet: a UNet that preserves magnitudes (Karras et al., arXiv 2312.02696).

Config G of the paper, and configs C to F on the way to it, which start from ADM.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from ...core.sites import CONDITION_EMBEDDING, TIME_EMBEDDING, at_site, changed
from ..layers.starts import Keys, Rngs
from .backbone import Backbone, Passage, sample_keys
from .edm2_blocks import DESIGNS, BlockStyle, EDM2Block, scale_groups
from .stages import Arrangement, arrange

# name -> (model_channels, dropout), arXiv 2312.02696, table 6; XXS: arXiv 2406.02507.
SIZES = {
    "XXS": (64, 0.0),
    "XS": (128, 0.0),
    "S": (192, 0.0),
    "M": (256, 0.1),
    "L": (320, 0.1),
    "XL": (384, 0.1),
    "XXL": (448, 0.1),
}
# ImageNet-512 in the latents of an autoencoder, and ImageNet-64 itself.
DATA_SETS = {"img512": dict(image_size=64, channels=4), "img64": dict(image_size=64, channels=3)}


def published(name: str) -> dict:
    """Return the fields of a published network, ``"img512-S"``, ``"img64-S"`` or ``"S"`` (latents).

    Raises:
        ValueError: an unknown name.
    """
    data, _, size = name.rpartition("-")
    if size.upper() not in SIZES or (data or "img512") not in DATA_SETS:
        raise ValueError(
            f"unknown EDM2 network {name!r}; use one of {', '.join(SIZES)} for latents, or one "
            f"of them after img512- (the same) or img64-"
        )
    model_channels, dropout = SIZES[size.upper()]
    fields = dict(num_classes=1000, model_channels=model_channels, dropout=dropout)
    return DATA_SETS[data or "img512"] | fields


def edm2_arrangement(
    image_size: int,
    model_channels: int,
    channel_mult: Sequence[int],
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> Arrangement:
    """Return the blocks of an `EDM2UNet` of these fields."""
    widths = [mult * model_channels for mult in channel_mult]
    first = widths[0] if widths else model_channels
    return arrange(
        image_size, first, widths, num_blocks, attn_resolutions, decoder_attends_last=False
    )


class EDM2UNet(Backbone):
    """UNet whose layers preserve magnitudes, ``(x, time, label) -> output``.

    Its time input is EDM's c_noise, ``ln(sigma) / 4``, and its input of magnitude 1.

    Args:
        image_size: usual height and width of the input.
        channels: of the input.
        num_classes: real classes; 0 builds an unconditional network.
        null_class: whether there is a null class, ``num_classes``, an embedding of zeros.
        config: C, D, E, F or G, the configuration of the paper's ladder.
        model_channels, channel_mult: width, and its multiple at each resolution, finest first.
        channel_mult_noise: number of Fourier features of the noise level, in multiples of
            ``model_channels``; None for the finest resolution's.
        channel_mult_emb: width of the embedding, likewise; None for the widest resolution's.
        num_blocks: blocks at each resolution of the encoder; the decoder has one more.
        attn_resolutions: at which blocks have attention.
        channels_per_head: of the attention.
        dropout: share of activations that training drops; a call drops with a key only.
        resample_filter: one axis of the filter that goes with resampling.
        label_balance, concat_balance, res_balance, attn_balance: part of the condition in the
            embedding, of skip connections, of residual branches and of attention (config G).
        clip: bound of the features' values after each block, for float16; None for none.
        log_variance_features: of the head that predicts the loss.
        dtype: compute type of the features; parameters, embeddings and the normalisation of
            weights stay float32.

    Modes step in at the embedding of the noise level (before the condition's is added), at the
    condition's, at self-attention and blocks (both numbered in the order in which they run), at
    the bottleneck's output and at each skip connection.

    Raises:
        ValueError: an unknown config, or sizes that do not divide.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int = 0,
        null_class: bool = True,
        config: str = "G",
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        resample_filter: Sequence[float] = (1, 1),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip: float | None = 256.0,
        log_variance_features: int = 128,
        dtype=jnp.float32,
        rngs: Rngs,
    ):
        if config not in DESIGNS:
            raise ValueError(f"config {config!r} is not one of {', '.join(DESIGNS)}")
        rngs = Keys(rngs)
        self.image_size, self.channels = image_size, channels
        self.num_classes, self.null_class = num_classes, null_class
        self.augment_dim, self.dtype, self.design = 0, dtype, DESIGNS[config]
        self.label_balance, self.concat_balance = label_balance, concat_balance
        self.arrangement = edm2_arrangement(
            image_size, model_channels, channel_mult, num_blocks, attn_resolutions
        )
        widths = [level.width for level in self.arrangement.levels]
        noise = widths[0] if channel_mult_noise is None else channel_mult_noise * model_channels
        width = max(widths) if channel_mult_emb is None else channel_mult_emb * model_channels
        style = BlockStyle(
            design=self.design,
            embedding=width,
            channels_per_head=channels_per_head,
            dropout=dropout,
            taps=tuple(resample_filter),
            res_balance=res_balance,
            attn_balance=attn_balance,
            clip=clip,
            dtype=dtype,
        )
        design, finest = self.design, self.arrangement.levels[0]
        self.emb_fourier = design.fourier(noise, rngs=rngs)
        self.emb_noise = design.linear(noise, width, rngs=rngs)
        if design.group_norm:
            self.emb_hidden = design.linear(width, width, rngs=rngs)
        if num_classes:
            self.emb_label = design.linear(num_classes, width, rngs=rngs)
        first = design.conv(channels + 1, self.arrangement.width, 3, dtype=dtype, rngs=rngs)
        self.enc = nnx.Dict(
            {f"{finest.label}_conv": first}
            | {
                stage.name: EDM2Block(stage, style, encoder=True, rngs=rngs)
                for stage in self.arrangement.encoder
            }
        )
        self.dec = nnx.Dict(
            {
                stage.name: EDM2Block(stage, style, encoder=False, rngs=rngs)
                for stage in self.arrangement.decoder
            }
        )
        self.out_conv = design.conv(finest.width, channels, 3, dtype=dtype, rngs=rngs)
        if design.unit_functions:
            self.out_gain = nnx.Param(jnp.zeros(()))
        self.logvar_fourier = design.fourier(log_variance_features, rngs=rngs)
        self.logvar_linear = design.linear(log_variance_features, 1, rngs=rngs)

    @classmethod
    def from_name(cls, name: str, **overrides) -> "EDM2UNet":
        """Build a published network by name, ``"S"`` (latents), ``"img64-S"``; see `published`."""
        return cls(**(published(name) | overrides))

    def __call__(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        modes: tuple = (),
        *,
        dropout_key: Key[Array, ""] | Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch h w c"]:
        """Run the network.

        Args:
            x: images of the network's channels, sides divisible by two for each level but one.
            time: c_noise.
            label: integers, ``num_classes`` being the null class; None is the null class.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`).
            dropout_key: one, or one a sample; None drops nothing.

        Raises:
            ValueError: an input of other channels or of sides that do not divide, a mode at a
                site that is not offered, in a layer that is not there, or one that leaves out a
                block that changes the shape.
        """
        self.require(x, None, modes)
        embedding = self._embedding(time, label, modes)
        passage = Passage(embedding, modes, sample_keys(dropout_key, x.shape[0]))
        # The channel of ones stands for biases, of which there are none.
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(self.dtype)
        h = self.enc[f"{self.arrangement.levels[0].label}_conv"](x)
        connections = [h]
        for stage in self.arrangement.encoder:
            h = self.run(self.enc, stage, h, passage)
            connections.append(h)
        h = self.decode(h, connections, passage)[-1]
        if self.design.group_norm:
            h = self.design.silu(scale_groups(h))
        gain = (self.out_gain[...],) if self.design.unit_functions else ()
        return self.out_conv(h, *gain).astype(jnp.float32)

    def log_variance(self, time: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """Return u(sigma), the logarithm of the loss to be expected at a noise level (eq. 21).

        Args:
            time: c_noise, as in a call.
        """
        return self.logvar_linear(self.logvar_fourier(time))[:, 0]

    def join(self, x, connection):
        return self.design.join(x, connection, self.concat_balance)

    def _embedding(self, time, label, modes):
        design = self.design
        embedding = self.emb_noise(self.emb_fourier(time))
        if design.group_norm:
            embedding = self.emb_hidden(jax.nn.silu(embedding))
        embedding = changed(modes, TIME_EMBEDDING, embedding)
        if self.num_classes:
            # A one-hot row times this has magnitude 1.
            scale = math.sqrt(self.num_classes)
            condition = self.emb_label(scale * self.one_hot(label, time.shape[0]))
            if at_site(modes, CONDITION_EMBEDDING):
                table = scale * design.table(self.emb_label)
                condition = changed(modes, CONDITION_EMBEDDING, condition, table)
            embedding = design.add(embedding, condition, self.label_balance)
        return design.silu(embedding)
