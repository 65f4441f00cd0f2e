"""DhariwalUNet: ADM (Dhariwal and Nichol, arXiv 2105.05233) as EDM has it (arXiv 2206.00364)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from ...core.registry import register
from ...core.sites import CONDITION_EMBEDDING, TIME_EMBEDDING, changed
from ..layers.dense import zeros
from ..layers.frequencies import sinusoids
from ..layers.starts import UNIFORM, Keys, Rngs, Start
from ..preconditioning import from_config, sigma_range
from ..spec import Spec, checked_fields, compute_type, label_of
from .backbone import Backbone, Passage, sample_keys
from .blocks import Style, UNetBlock, conv, group_norm, linear
from .stages import Arrangement, arrange

EPSILON = 1e-5
CHANNELS_PER_HEAD = 64


LAST = Start(zeros)
LABEL = Start(nnx.initializers.normal(1.0))

# arXiv 2206.00364, appendix F: ImageNet at 64x64; the defaults are the published ones.
NETWORKS = {"adm-imagenet64": dict(image_size=64, channels=3, num_classes=1000)}


def published(name: str) -> dict:
    """Return the fields of a published network.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown DhariwalUNet {name!r}; use one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def dhariwal_arrangement(
    image_size: int,
    model_channels: int,
    channel_mult: Sequence[int],
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> Arrangement:
    """Return the blocks of a `DhariwalUNet` of these fields."""
    widths = [mult * model_channels for mult in channel_mult]
    first = widths[0] if widths else model_channels
    return arrange(
        image_size, first, widths, num_blocks, attn_resolutions, decoder_attends_last=False
    )


class DhariwalUNet(Backbone):
    """ADM, ``(x, time, label) -> output`` in the network's own coordinates.

    Args:
        image_size: usual height and width of the input.
        channels: of the input.
        num_classes: real classes; 0 builds an unconditional network.
        null_class: whether there is a null class, ``num_classes``, an embedding of zeros.
        augment_dim: numbers in a label of augmentation; 0 for a network that takes none.
        model_channels, channel_mult: width, and its multiple at each resolution, finest first.
        channel_mult_emb: width of the embedding, in multiples of ``model_channels``.
        num_blocks: blocks at each resolution of the encoder; the decoder has one more.
        attn_resolutions: at which blocks have attention, 64 channels a head.
        dropout: share of activations that training drops; a call drops with a key only.
        learn_variance: double the output channels.
        dtype: compute type of the convolutions; parameters stay float32.

    Modes step in at the embedding of the noise level (after its MLP, before the condition's is
    added), at the condition's, at self-attention and blocks (both numbered in the order in which
    they run), at the bottleneck's output and at each skip connection.

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int = 0,
        null_class: bool = True,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        learn_variance: bool = False,
        dtype=jnp.float32,
        rngs: Rngs,
    ):
        self.image_size, self.channels = image_size, channels
        self.num_classes, self.null_class = num_classes, null_class
        self.augment_dim, self.model_channels, self.dtype = augment_dim, model_channels, dtype
        if model_channels % 2:
            raise ValueError(f"model_channels {model_channels} must be even")
        self.arrangement = dhariwal_arrangement(
            image_size, model_channels, channel_mult, num_blocks, attn_resolutions
        )
        style = Style(
            embedding=model_channels * channel_mult_emb,
            adaptive_scale=True,
            skip_scale=1.0,
            epsilon=EPSILON,
            dropout=dropout,
            taps=(1, 1),
            project_resampled=False,
            channels_per_head=CHANNELS_PER_HEAD,
            start=UNIFORM,
            last=LAST,
            attention=UNIFORM,
            dtype=dtype,
        )
        rngs = Keys(rngs)
        if augment_dim:
            self.map_augment = linear(augment_dim, model_channels, LAST, rngs=rngs, use_bias=False)
        self.map_layer0 = linear(model_channels, style.embedding, UNIFORM, rngs=rngs)
        self.map_layer1 = linear(style.embedding, style.embedding, UNIFORM, rngs=rngs)
        if num_classes:
            self.map_label = linear(num_classes, style.embedding, LABEL, rngs=rngs, use_bias=False)
        finest, made = self.arrangement.levels[0], dict(dtype=dtype, rngs=rngs)
        first = conv(channels, self.arrangement.width, 3, UNIFORM, **made)
        encoder, decoder = self.arrangement.encoder, self.arrangement.decoder
        self.enc = nnx.Dict(
            {f"{finest.label}_conv": first}
            | {stage.name: UNetBlock(stage, style, rngs=rngs) for stage in encoder}
        )
        self.dec = nnx.Dict({stage.name: UNetBlock(stage, style, rngs=rngs) for stage in decoder})
        self.out_norm = group_norm(finest.width, EPSILON, rngs=rngs)
        out_channels = channels * (2 if learn_variance else 1)
        self.out_conv = conv(finest.width, out_channels, 3, LAST, **made)

    @classmethod
    def from_name(cls, name: str, **overrides) -> "DhariwalUNet":
        """Build a published network by name, ``"adm-imagenet64"``."""
        return cls(**(published(name) | overrides))

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
        """Run the network; arguments and errors as of `SongUNet`."""
        self.require(x, augment, modes)
        embedding = self._embedding(time, label, augment, modes)
        passage = Passage(embedding, modes, sample_keys(dropout_key, x.shape[0]))
        h = self.enc[f"{self.arrangement.levels[0].label}_conv"](x.astype(self.dtype))
        connections = [h]
        for stage in self.arrangement.encoder:
            h = self.run(self.enc, stage, h, passage)
            connections.append(h)
        h = self.decode(h, connections, passage)[-1]
        return self.out_conv(jax.nn.silu(self.out_norm(h)).astype(self.dtype)).astype(jnp.float32)

    def _embedding(self, time, label, augment, modes):
        embedding = sinusoids(time, self.model_channels, endpoint=False, sine_first=False)
        if augment is not None:
            embedding = embedding + self.map_augment(augment)
        embedding = self.map_layer1(jax.nn.silu(self.map_layer0(embedding)))
        embedding = changed(modes, TIME_EMBEDDING, embedding)
        if self.num_classes:
            condition = self.map_label(self.one_hot(label, time.shape[0]))
            table = self.map_label.kernel[...]
            embedding = embedding + changed(modes, CONDITION_EMBEDDING, condition, table)
        return jax.nn.silu(embedding)


@register("network", "2105.05233", "2206.00364", name="dhariwal_unet")
def dhariwal_unet_spec(
    size: str | None = None,
    dtype: str = "float32",
    sigma_data: float = 0.5,
    preconditioner: str | Mapping[str, Any] = "edm",
    **fields: Any,
) -> Spec:
    """Read the model section of a `DhariwalUNet`; arguments as for a `SongUNet`."""
    fields = (published(size) if size else {}) | fields
    fields = checked_fields(DhariwalUNet, "dhariwal_unet", fields)
    compute = compute_type(dtype)

    def build(rngs):
        return DhariwalUNet(dtype=compute, rngs=rngs, **fields)

    precondition = from_config(preconditioner, sigma_data=sigma_data)
    side = fields["image_size"]
    return Spec(
        build,
        label_of(fields),
        (side, side, fields["channels"]),
        precondition,
        sigma_range=sigma_range(precondition),
    )
