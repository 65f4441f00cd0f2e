"""Self-modulated convolutions, which need no normalisation of features (arXiv 2405.14477).

Group normalisation in a decoder lets single places of a feature map grow bright and carry
information past it; a weight of fixed norm does not.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .sd_vae import attend, conv

EPSILON = 1e-8


class ModulatedConv(nnx.Module):
    """A convolution whose weight is scaled by input channel and normalised by output channel.

    ``w'_oi = g s_i w_oi / sqrt(sum_i,k (s_i w_oi)^2 + eps)`` with learned scales s, gain g and
    bias: StyleGAN2's modulation (arXiv 1912.04958, eq. 1 and 3) with parameters for styles.
    """

    def __init__(self, fan_in: int, fan_out: int, size: int = 3, *, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        # Only its direction matters, but its size decides how far a step turns it: that of other
        # convolutions.
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (size, size, fan_in, fan_out)))
        self.scales = nnx.Param(jnp.ones(fan_in))
        self.gain = nnx.Param(jnp.ones(()))
        self.bias = nnx.Param(jnp.zeros(fan_out))

    def weight(self) -> Float[Array, "size size in out"]:
        """Return what is convolved with: each output channel of norm ``gain``."""
        scaled = self.kernel[...] * self.scales[...][:, None]
        squares = jnp.sum(scaled**2, axis=(0, 1, 2))
        return self.gain[...] * scaled * jax.lax.rsqrt(squares + EPSILON)

    def __call__(self, x: Float[Array, "batch h w in"]) -> Float[Array, "batch h w out"]:
        convolved = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.weight().astype(self.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return convolved + self.bias[...].astype(self.dtype)


class Modulated(nnx.Module):
    """``conv(silu(x))``: `sd_vae.Normalised` without its normalisation."""

    def __init__(self, fan_in: int, fan_out: int, *, dtype, rngs):
        self.conv = ModulatedConv(fan_in, fan_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w d"]:
        return self.conv(jax.nn.silu(x))


class Activated(nnx.Module):
    """``conv(silu(x))`` with a plain convolution: the last layer, which sets the contrast."""

    def __init__(self, fan_in: int, fan_out: int, *, dtype, rngs):
        self.conv = conv(fan_in, fan_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w d"]:
        return self.conv(jax.nn.silu(x))


class ModulatedAttention(nnx.Module):
    """`sd_vae.Attention` with modulated 1x1 convolutions in place of the normalisation."""

    def __init__(self, width: int, *, dtype, rngs):
        make = partial(ModulatedConv, width, width, 1, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        return x + attend(x, self.query, self.key, self.value, self.out)
