"""LiteVAE: an autoencoder with a small encoder on wavelets (Sadat et al., arXiv 2405.14477)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ..spec import Spec, checked_fields, compute_type
from .discriminator import ROLE, taken_out
from .haar import BANDS, pyramid
from .modulated import Activated, Modulated, ModulatedAttention
from .posterior import from_moments
from .sd_vae import Decoder, Residual, conv, require_divisible

# size -> (width, multipliers) of the extractors, then of the aggregator.
SIZES = {
    "S": ((16, (1, 2, 2)), (16, (1, 2, 2))),
    "B": ((32, (1, 2, 3)), (32, (1, 2, 3))),
    "M": ((64, (1, 2, 4)), (32, (1, 2, 3))),
    "L": ((64, (1, 2, 4)), (64, (1, 2, 4))),
}
DEPTH = 2


class FlatUNet(nnx.Module):
    """A UNet that keeps its input's resolution: residual blocks in and out, joined by skips.

    Args:
        fan_in, fan_out: channels before and after.
        width: of the first block.
        multipliers: of ``width``, one for each group of two blocks; the way out has them in
            reverse.
    """

    def __init__(self, fan_in, fan_out, width: int, multipliers: Sequence[int], *, dtype, rngs):
        options = dict(dtype=dtype, rngs=rngs)
        widths = [width * multiplier for multiplier in multipliers for _ in range(DEPTH)]
        self.conv_in = conv(fan_in, width, dtype=dtype, rngs=rngs)
        self.inwards = nnx.List([Residual(a, b, **options) for a, b in pairwise((width, *widths))])
        last = widths[-1]
        self.middle = nnx.List([Residual(last, last, **options) for _ in range(DEPTH)])
        # The skip into a block is as wide as what it returns: both belong to one place.
        self.outwards = nnx.List(
            [Residual(a + b, b, **options) for a, b in pairwise((last, *reversed(widths)))]
        )
        self.conv_out = conv(widths[0], fan_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w d"]:
        h, skips = self.conv_in(x), []
        for block in self.inwards:
            h = block(h)
            skips.append(h)
        for block in self.middle:
            h = block(h)
        for block in self.outwards:
            h = block(jnp.concatenate([h, skips.pop()], axis=-1))
        return self.conv_out(h)


class WaveletEncoder(nnx.Module):
    """Wavelet bands of every level through a UNet each, brought to one size, through a last UNet.

    Args:
        channels, latent_channels: of image and latent.
        levels: of the wavelet transform; the latent is ``2^levels`` times smaller.
        extractor, aggregator: ``(width, multipliers)`` of the UNets, see `FlatUNet`.
    """

    def __init__(self, channels, latent_channels, levels, extractor, aggregator, *, dtype, rngs):
        self.levels, self.dtype = levels, dtype
        bands = BANDS * channels
        options = dict(dtype=dtype, rngs=rngs)
        self.extractors = nnx.List(
            [FlatUNet(bands, bands, *extractor, **options) for _ in range(levels)]
        )
        self.aggregator = FlatUNet(levels * bands, 2 * latent_channels, *aggregator, **options)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch _h _w moments"]:
        features = []
        for level, bands in enumerate(pyramid(x, self.levels), start=1):
            found = self.extractors[level - 1](bands.astype(self.dtype))
            features.append(averaged(found, 2 ** (self.levels - level)))
        return self.aggregator(jnp.concatenate(features, axis=-1))


def averaged(x: Float[Array, "batch h w c"], by: int) -> Float[Array, "batch h/{by} w/{by} c"]:
    """Return means over squares of ``by`` x ``by`` pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // by, by, width // by, by, channels).mean(axis=(2, 4))


class LiteVAE(nnx.Module):
    """Autoencoder with a Gaussian posterior: wavelet encoder, decoder of modulated convolutions.

    The decoder is Stable Diffusion's without normalisation and without the 1x1 convolutions around
    the latent.

    Args:
        channels: of the images.
        latent_channels: of the latents; the paper has 4 and 12.
        levels: wavelet levels; the latent is ``2^levels`` times smaller than the image.
        extractor, aggregator: ``(width, multipliers)`` of the encoder's UNets.
        decoder_widths: of the decoder's stages, finest resolution first, ``levels + 1`` of them.
        decoder_depth: residual blocks of a stage of the decoder.
        dtype: compute type of the convolutions; parameters stay float32.

    Raises:
        ValueError: another number of decoder widths than ``levels + 1``.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        latent_channels: int = 12,
        levels: int = 3,
        extractor: tuple[int, Sequence[int]] = SIZES["B"][0],
        aggregator: tuple[int, Sequence[int]] = SIZES["B"][1],
        decoder_widths: Sequence[int] = (128, 256, 512, 512),
        decoder_depth: int = 3,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = tuple(decoder_widths)
        if levels < 1 or len(widths) != levels + 1:
            raise ValueError(
                f"decoder_widths {widths} must be {levels + 1} for {levels} wavelet levels (1 or "
                f"more): one for each resolution"
            )
        self.factor = 2**levels
        self.channels, self.latent_channels, self.dtype = channels, latent_channels, dtype
        options = dict(dtype=dtype, rngs=rngs)
        self.encoder = WaveletEncoder(
            channels, latent_channels, levels, tuple(extractor), tuple(aggregator), **options
        )
        self.decoder = Decoder(
            channels,
            latent_channels,
            widths,
            decoder_depth,
            half=Modulated,
            attention=ModulatedAttention,
            out=Activated,
            **options,
        )

    @classmethod
    def from_name(cls, size: str, **overrides) -> "LiteVAE":
        """Build a published size: S, B, M or L.

        Raises:
            ValueError: another name.
        """
        return cls(**(of_size(size) | overrides))

    def encode(
        self, x: Float[Array, "batch h w c"]
    ) -> tuple[
        Float[Array, "batch h/{self.factor} w/{self.factor} z"],
        Float[Array, "batch h/{self.factor} w/{self.factor} z"],
    ]:
        """Return mean and log variance of the latents of images in [-1, 1].

        Raises:
            ValueError: other channels, or a size that ``factor`` does not divide.
        """
        require_divisible(x.shape, self.channels, self.factor)
        return from_moments(self.encoder(x))

    def decode(
        self, z: Float[Array, "batch h w z"]
    ) -> Float[Array, "batch {self.factor}*h {self.factor}*w c"]:
        """Return the images of latents, about in [-1, 1]."""
        return self.decoder(z)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        """Return the images that the means of the latents decode to."""
        return self.decode(self.encode(x)[0])


def of_size(size: str) -> dict:
    """Return the encoder's fields of a published size.

    Raises:
        ValueError: another name than S, B, M or L.
    """
    if size not in SIZES:
        raise ValueError(f"LiteVAE size {size!r} is not one of {', '.join(SIZES)}")
    extractor, aggregator = SIZES[size]
    return dict(extractor=extractor, aggregator=aggregator)


@register("network", "2405.14477", name="lite_vae")
def lite_vae_spec(
    image_size: int = 256,
    channels: int = 3,
    size: str | None = None,
    dtype: str = "float32",
    **fields: Any,
) -> Spec:
    """Read the model section of a LiteVAE: its fields, a ``size`` and the usual ``image_size``."""
    compute = compute_type(dtype)
    if ROLE in fields:
        images = {"image_size": image_size, "channels": channels}
        _, model = taken_out({"name": "lite_vae", **images, **fields})
        instead = f"set roles.{ROLE}={{'model': {model}, 'frozen': False}} instead"
        raise ValueError(
            f"{ROLE} is no field of an autoencoder any more, but a network of its own: leave it "
            f"out{f', and {instead}' if model else ''}"
        )
    if size is not None:
        fields = of_size(size) | fields
    own = checked_fields(LiteVAE, "lite_vae", {"channels": channels} | fields)

    def build(rngs):
        return LiteVAE(dtype=compute, rngs=rngs, **own)

    return Spec(build, None, (image_size, image_size, channels), None)
