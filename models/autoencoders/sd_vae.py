"""The autoencoder of Stable Diffusion (Rombach et al., arXiv 2112.10752), as DiT and EDM2 use it.

Pixels to latents of an eighth of the size with 4 channels, and back. The published weights
(sd-vae-ft-mse and -ema, their parent kl-f8) load by `models.checkpoints`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ..spec import Spec, checked_fields, compute_type
from .posterior import from_moments

GROUPS, EPSILON = 32, 1e-6


def conv(fan_in: int, fan_out: int, size: int = 3, *, dtype, rngs, **options) -> nnx.Conv:
    return nnx.Conv(fan_in, fan_out, (size, size), dtype=dtype, rngs=rngs, **options)


def group_norm(width: int, *, rngs) -> nnx.GroupNorm:
    """Make a normalisation by as many groups as the width allows, 32 at most."""
    # In float32 whatever the compute type: means over whole images do not survive bfloat16.
    return nnx.GroupNorm(
        width,
        num_groups=math.gcd(width, GROUPS),
        epsilon=EPSILON,
        use_fast_variance=False,
        dtype=jnp.float32,
        rngs=rngs,
    )


class Normalised(nnx.Module):
    """``conv(silu(norm(x)))``, the half of a residual block that this file's networks use."""

    def __init__(self, fan_in: int, fan_out: int, *, dtype, rngs):
        self.dtype = dtype
        self.norm = group_norm(fan_in, rngs=rngs)
        self.conv = conv(fan_in, fan_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w d"]:
        return self.conv(jax.nn.silu(self.norm(x)).astype(self.dtype))


class Residual(nnx.Module):
    """Two halves after one another, added to their input or to a 1x1 convolution of it.

    Args:
        fan_in, fan_out: channels before and after.
        half: makes one half, from ``(fan_in, fan_out)``.
    """

    def __init__(self, fan_in: int, fan_out: int, *, half: Callable = Normalised, dtype, rngs):
        self.first = half(fan_in, fan_out, dtype=dtype, rngs=rngs)
        self.second = half(fan_out, fan_out, dtype=dtype, rngs=rngs)
        self.shortcut = (
            None if fan_in == fan_out else conv(fan_in, fan_out, 1, dtype=dtype, rngs=rngs)
        )

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w d"]:
        return (x if self.shortcut is None else self.shortcut(x)) + self.second(self.first(x))


class Attention(nnx.Module):
    """Self-attention of all places of an image, one head as wide as the features."""

    def __init__(self, width: int, *, dtype, rngs):
        self.dtype = dtype
        self.norm = group_norm(width, rngs=rngs)
        make = partial(nnx.Linear, width, width, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        h = self.norm(x).astype(self.dtype)
        return x + attend(h, self.query, self.key, self.value, self.out)


def attend(x: Array, query: Callable, key: Callable, value: Callable, out: Callable) -> Array:
    """Return attention over all places of ``x`` [batch, h, w, c] with one head."""
    tokens = (one(x).reshape(x.shape[0], -1, 1, x.shape[-1]) for one in (query, key, value))
    return out(jax.nn.dot_product_attention(*tokens).reshape(x.shape))


class Middle(nnx.Module):
    """What encoder and decoder do at the lowest resolution: residual, attention, residual."""

    def __init__(self, width: int, *, half: Callable, attention: Callable, dtype, rngs):
        self.before = Residual(width, width, half=half, dtype=dtype, rngs=rngs)
        self.attention = attention(width, dtype=dtype, rngs=rngs)
        self.after = Residual(width, width, half=half, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        return self.after(self.attention(self.before(x)))


class Halve(nnx.Module):
    """Halve the resolution by a strided convolution.

    Only below and to the right is it padded, so that 3x3 windows tile an even size, as published.
    """

    def __init__(self, width: int, *, dtype, rngs):
        self.conv = conv(width, width, strides=2, padding=((0, 1), (0, 1)), dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h//2 w//2 c"]:
        return self.conv(x)


class Double(nnx.Module):
    """Double the resolution by repeating pixels, then convolve."""

    def __init__(self, width: int, *, dtype, rngs):
        self.conv = conv(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch 2*h 2*w c"]:
        return self.conv(x.repeat(2, axis=1).repeat(2, axis=2))


class Stage(nnx.Module):
    """Residual blocks at one resolution, then what changes it; None of that in the last stage."""

    def __init__(self, fan_in, fan_out, depth, *, resample, half, dtype, rngs):
        widths = (fan_in, *[fan_out] * depth)
        self.blocks = nnx.List(
            [Residual(*pair, half=half, dtype=dtype, rngs=rngs) for pair in pairwise(widths)]
        )
        self.resample = None if resample is None else resample(fan_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Array:
        for block in self.blocks:
            x = block(x)
        return x if self.resample is None else self.resample(x)


def stages(widths: Sequence[int], depth: int, resample: Callable, **options) -> nnx.List:
    """Return a stage for each width, all but the last changing the resolution."""
    pairs = list(pairwise((widths[0], *widths)))
    between = [resample] * (len(pairs) - 1) + [None]
    return nnx.List(
        [
            Stage(*pair, depth, resample=one, **options)
            for pair, one in zip(pairs, between, strict=True)
        ]
    )


class Encoder(nnx.Module):
    """Images to the mean and log variance of a latent, ``2^(stages - 1)`` times smaller."""

    def __init__(self, channels, latent_channels, widths, depth, *, dtype, rngs):
        self.dtype = dtype
        self.conv_in = conv(channels, widths[0], dtype=dtype, rngs=rngs)
        self.stages = stages(widths, depth, Halve, half=Normalised, dtype=dtype, rngs=rngs)
        self.middle = Middle(
            widths[-1], half=Normalised, attention=Attention, dtype=dtype, rngs=rngs
        )
        self.out = Normalised(widths[-1], 2 * latent_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch _h _w moments"]:
        h = self.conv_in(x.astype(self.dtype))
        for stage in self.stages:
            h = stage(h)
        return self.out(self.middle(h))


class Decoder(nnx.Module):
    """Latents to images, ``2^(stages - 1)`` times larger.

    Args:
        channels, latent_channels: of image and latent.
        widths: of the stages, finest resolution first, as in the encoder.
        depth: residual blocks of a stage; the decoder has one more than the encoder.
        half: what residual blocks are made of, see `Residual`.
        attention: makes the attention in the middle, from a width.
        out: makes the last layer, from ``(fan_in, fan_out)``.
    """

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        widths: Sequence[int],
        depth: int,
        *,
        half: Callable = Normalised,
        attention: Callable = Attention,
        out: Callable = Normalised,
        dtype,
        rngs,
    ):
        self.dtype = dtype
        self.conv_in = conv(latent_channels, widths[-1], dtype=dtype, rngs=rngs)
        self.middle = Middle(widths[-1], half=half, attention=attention, dtype=dtype, rngs=rngs)
        self.stages = stages(widths[::-1], depth, Double, half=half, dtype=dtype, rngs=rngs)
        self.out = out(widths[0], channels, dtype=dtype, rngs=rngs)

    def __call__(self, z: Float[Array, "batch h w z"]) -> Float[Array, "batch _h _w c"]:
        h = self.middle(self.conv_in(z.astype(self.dtype)))
        for stage in self.stages:
            h = stage(h)
        return self.out(h).astype(jnp.float32)


class SDVAE(nnx.Module):
    """Stable Diffusion's autoencoder with a Gaussian posterior, at its published size by default.

    Args:
        channels: of the images.
        latent_channels: of the latents.
        block_out_channels: widths of the stages, multiples of 32; each but the last halves the
            resolution.
        layers_per_block: residual blocks of an encoder's stage; the decoder has one more.
        dtype: compute type of the convolutions; parameters stay float32.

    Raises:
        ValueError: widths that 32 groups do not divide.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        latent_channels: int = 4,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = tuple(block_out_channels)
        if not widths or any(width % GROUPS for width in widths):
            raise ValueError(f"block_out_channels {widths} must be multiples of {GROUPS}")
        self.factor = 2 ** (len(widths) - 1)
        self.channels, self.latent_channels, self.dtype = channels, latent_channels, dtype
        sizes, options = (channels, latent_channels, widths), dict(dtype=dtype, rngs=rngs)
        self.encoder = Encoder(*sizes, layers_per_block, **options)
        self.decoder = Decoder(*sizes, layers_per_block + 1, **options)
        self.quant = conv(2 * latent_channels, 2 * latent_channels, 1, **options)
        self.post_quant = conv(latent_channels, latent_channels, 1, **options)

    def encode(
        self, x: Float[Array, "batch h w c"]
    ) -> tuple[
        Float[Array, "batch h/{self.factor} w/{self.factor} z"],
        Float[Array, "batch h/{self.factor} w/{self.factor} z"],
    ]:
        """Return mean and log variance of the latents of images.

        DiT gives it images in [-1, 1] and EDM2 in [0, 1]; see `scaling`.

        Raises:
            ValueError: other channels, or a size that ``factor`` does not divide.
        """
        require_divisible(x.shape, self.channels, self.factor)
        return from_moments(self.quant(self.encoder(x)))

    def decode(
        self, z: Float[Array, "batch h w z"]
    ) -> Float[Array, "batch {self.factor}*h {self.factor}*w c"]:
        """Return the images of latents, in the range that the encoder was given."""
        return self.decoder(self.post_quant(z.astype(self.dtype)))

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        """Return the images that the means of the latents decode to."""
        return self.decode(self.encode(x)[0])


def require_divisible(shape: tuple[int, ...], channels: int, factor: int) -> None:
    """Refuse images that an autoencoder cannot take.

    Raises:
        ValueError: other channels, or a height or width that ``factor`` does not divide.
    """
    if len(shape) != 4 or shape[3] != channels or any(n % factor or not n for n in shape[1:3]):
        raise ValueError(
            f"this autoencoder takes images of {channels} channels and sides divisible by "
            f"{factor}, got {shape[1:]}"
        )


@register("network", "2112.10752", name="sd_vae")
def sd_vae_spec(
    image_size: int = 256, channels: int = 3, dtype: str = "float32", **fields: Any
) -> Spec:
    """Read the model section of an SD-VAE: the fields of `SDVAE` and the usual ``image_size``."""
    compute = compute_type(dtype)
    own = checked_fields(SDVAE, "sd_vae", {"channels": channels} | fields)

    def build(rngs):
        return SDVAE(dtype=compute, rngs=rngs, **own)

    return Spec(build, None, (image_size, image_size, channels), None)
