"""Layers that keep the magnitude (root mean square) of what passes through them at 1.

Karras et al., arXiv 2312.02696, sec. 2.2 to 2.5 and appendices B.4 to B.7. The score MLP of arXiv
2406.02507 is made of the same ones.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from .convolution import Prepared, convolve, prepared
from .starts import Rngs

EPSILON = 1e-4
# RMS of silu over unit Gaussian inputs, rounded as published (eq. 81).
SILU_GAIN = 0.596
# Parameters by the last part of their path: normalised weights, and what never changes.
KERNEL, CONSTANTS = "kernel", ("freqs", "phases")


def normalise(x: Array, axis: int | Sequence[int]) -> Array:
    """Scale to root mean square 1 over the axes: ``x / (rms(x) + 1e-4)``, algorithm 1.

    Statistics are of float32 at least; the result has the type of ``x``, and a finite gradient
    where ``x`` is zero.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(wide**2, axis=axis, keepdims=True)
    rms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return x / (rms + EPSILON).astype(x.dtype)


def pixel_norm(x: Float[Array, "... channel"]) -> Float[Array, "... channel"]:
    """Scale the channels of every pixel to root mean square 1 (eq. 30)."""
    return normalise(x, -1)


def mp_silu(x: Array) -> Array:
    """SiLU over its root mean square for unit Gaussian inputs (eq. 81)."""
    return jax.nn.silu(x) / SILU_GAIN


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """Add in the proportion ``1 - t`` to ``t`` (eq. 88)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Array, b: Array, t: float) -> Array:
    """Concatenate channels so that the parts contribute ``1 - t`` to ``t`` (eq. 103).

    What they contribute does not depend on how many channels each has.
    """
    first, second = a.shape[-1], b.shape[-1]
    scale = math.sqrt(first + second) / math.hypot(1 - t, t)
    return jnp.concatenate(
        [a * (scale * (1 - t) / first**0.5), b * (scale * t / second**0.5)], axis=-1
    )


def unit_kernel(
    kernel: Float[Array | np.ndarray, "... out"],
    gain: Float[Array, ""] | float = 1.0,
    dtype: Any = None,
) -> Float[Array, "... out"]:
    """Return a kernel as it acts: each output's weights at norm ``gain`` (eq. 47).

    The gradient is orthogonal to the stored weights, and their norm has no effect: an average of
    weights, which is shorter than each of them, is put right here.

    Args:
        kernel: stored weights, float32, output channels last.
        gain: learned factor of the output.
        dtype: of the result; that of ``kernel`` if None. It is scaled before it is cast.
    """
    fan_in = kernel.size // kernel.shape[-1]
    unit = normalise(jnp.asarray(kernel), tuple(range(kernel.ndim - 1))) * (
        gain / math.sqrt(fan_in)
    )
    return unit.astype(dtype or kernel.dtype)


class MPLinear(nnx.Module):
    """Linear layer without bias whose outputs' weights act with norm 1, whatever is stored."""

    def __init__(self, fan_in: int, fan_out: int, *, rngs: Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (fan_out, fan_in)).T)

    def __call__(self, x: Float[Array, "... in"], gain=1.0) -> Float[Array, "... out"]:
        """Multiply by the normalised weights, in the type of ``x``."""
        return x @ unit_kernel(self.kernel[...], gain, x.dtype)


class MPConv(nnx.Module):
    """Convolution of odd ``size`` without bias, its weights normalised like `MPLinear`'s."""

    def __init__(self, fan_in: int, fan_out: int, size: int, *, rngs: Rngs):
        shape = (size, size, fan_in, fan_out)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape))

    def __call__(self, x: Float[Array, "batch h w in"], gain=1.0) -> Float[Array, "batch h w out"]:
        """Convolve with the normalised weights, in the type of ``x``, zeros around the image."""
        kernel = self.kernel.get_value()
        if not isinstance(kernel, Prepared):
            return convolve(x, unit_kernel(self.kernel[...], gain, x.dtype))
        return convolve(x, kernel) * jnp.asarray(gain, x.dtype)

    def prepared(self) -> Prepared:
        """Return the normalised kernel, prepared for many uses."""
        return prepared(unit_kernel(self.kernel[...]))


class Fourier(nnx.Module):
    """Random Fourier features ``scale cos(freqs x + phases)`` (eq. 35, 75).

    Frequencies and phases are constants of the network that checkpoints hold: parameters like the
    others, but no gradient reaches them and training leaves them alone (see `is_constant`).

    Args:
        count: number of features.
        scale: sqrt(2) keeps the magnitude at 1.
    """

    def __init__(self, count: int, *, scale: float = math.sqrt(2), rngs: Rngs):
        self.scale = scale
        self.freqs = nnx.Param(2 * math.pi * jax.random.normal(rngs.params(), (count,)))
        self.phases = nnx.Param(2 * math.pi * jax.random.uniform(rngs.params(), (count,)))

    def __call__(self, x: Float[Array, " batch"]) -> Float[Array, "batch count"]:
        """Return the features, float32."""
        freqs, phases = jax.lax.stop_gradient((self.freqs[...], self.phases[...]))
        angles = x.astype(jnp.float32)[:, None] * freqs + phases
        return self.scale * jnp.cos(angles)


def is_constant(path: str) -> bool:
    """Say whether a parameter, by its path ``"emb_fourier/freqs"``, is one that never changes."""
    return path.rpartition("/")[2] in CONSTANTS


def normalise_weights(params: Any) -> Any:
    """Return the parameters with the weights of every output at norm ``sqrt(fan_in)`` (eq. 66).

    Forced weight normalisation, sec. 2.3: applied after every update, it keeps the effective
    learning rate from falling as stored weights grow. The function that the network computes does
    not change, beyond the 1e-4 that guards weights of zero.

    Args:
        params: nested dictionary of arrays; those named ``kernel`` are layers of this file.
    """

    def project(path, leaf):
        if path[-1].key != KERNEL:
            return leaf
        return normalise(leaf, tuple(range(leaf.ndim - 1)))

    return jax.tree_util.tree_map_with_path(project, params)
