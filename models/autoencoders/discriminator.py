"""A UNet that judges an image pixel by pixel, for adversarial training of autoencoders.

The kind of discriminator that LiteVAE found best (arXiv 2405.14477), after Schönfeld et
al., arXiv 2002.12655. Its size is not published; this one is plain, and its weights are kept at
unit norm in place of the spectral norm, which would need a state of its own.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ..spec import Spec, compute_type
from .modulated import ModulatedConv

SLOPE = 0.2
# The role of the network that is trained against an autoencoder. Weights and runs of an earlier
# release have it inside their autoencoder, under this name.
ROLE = "discriminator"


class Discriminator(nnx.Module):
    """Logits for each pixel, positive where it looks real.

    Args:
        channels: of the images.
        widths: of each resolution, finest first; each but the last is halved into the next.

    Raises:
        ValueError: no widths.
    """

    def __init__(self, channels: int, widths: Sequence[int], *, dtype, rngs: nnx.Rngs):
        if not widths:
            raise ValueError("a discriminator needs one width or more")
        self.dtype = dtype
        options = dict(dtype=dtype, rngs=rngs)
        self.down = nnx.List(
            [ModulatedConv(a, b, **options) for a, b in itertools.pairwise((channels, *widths))]
        )
        outwards = tuple(reversed(widths))
        self.up = nnx.List(
            [ModulatedConv(a + b, b, **options) for a, b in itertools.pairwise(outwards)]
        )
        self.out = ModulatedConv(widths[0], 1, 1, **options)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w 1"]:
        """Return logits for images in [-1, 1]."""
        h, skips = x, []
        for number, layer in enumerate(self.down):
            if number:
                skips.append(h)
                h = nnx.avg_pool(h, (2, 2), strides=(2, 2), padding="SAME")
            h = jax.nn.leaky_relu(layer(h), SLOPE)
        for layer in self.up:
            skip = skips.pop()
            # Odd sizes were rounded up on the way down.
            h = h.repeat(2, axis=1).repeat(2, axis=2)[:, : skip.shape[1], : skip.shape[2]]
            h = jax.nn.leaky_relu(layer(jnp.concatenate([h, skip], axis=-1)), SLOPE)
        return self.out(h).astype(jnp.float32)


@register("network", "2002.12655", name="unet_discriminator")
def unet_discriminator(
    image_size: int = 256,
    channels: int = 3,
    widths: Sequence[int] = (64, 128, 256),
    dtype: str = "float32",
) -> Spec:
    """Read the model section of a discriminator: the images that it judges, and its widths."""
    compute = compute_type(dtype)

    def build(rngs):
        return Discriminator(channels, tuple(widths), dtype=compute, rngs=rngs)

    return Spec(build, None, (image_size, image_size, channels), None)


def taken_out(model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the ``model`` section of an autoencoder, and of the discriminator inside it.

    Args:
        model: as an earlier release wrote it; one of today is returned as it is, and None.
    """
    outer = {name: value for name, value in model.items() if name != ROLE}
    widths = model.get(ROLE)
    if model.get("name") != "lite_vae" or not widths:
        return (outer if model.get("name") == "lite_vae" else dict(model)), None
    images = {name: model[name] for name in ("image_size", "channels", "dtype") if name in model}
    return outer, {"name": "unet_discriminator", **images, "widths": tuple(widths)}
