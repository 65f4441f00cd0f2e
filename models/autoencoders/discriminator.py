"""A UNet that judges an image pixel by pixel, for adversarial training of autoencoders.

The kind of discriminator that LiteVAE found best (arXiv 2405.14477), after Schönfeld et
al., arXiv 2002.12655. Its size is not published; this one is plain, and its weights are kept at
unit norm in place of the spectral norm, which would need a state of its own.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .modulated import ModulatedConv

SLOPE = 0.2


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
