"""Time-dependent layer normalisation (TD-LN) of DiMR (Liu et al., arXiv 2406.09416).

Instead of a network that turns the time into scales and shifts, the parameters of a plain layer
normalisation are themselves functions of the time: 8 numbers a channel.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

zeros, ones = nnx.initializers.zeros_init(), nnx.initializers.ones_init()
CENTRED_EPSILON, RMS_EPSILON = 1e-5, 1e-8
KINDS = ("layer", "rms")


class TimeDependent(nnx.Module):
    """A vector that moves between two as the time does, ``p(tau) = p1 + s(tau) (p0 - p1)``.

    ``s(tau) = sigmoid(w tau + b)``, channel by channel. It starts with ``p0 = p1``, the same at
    all times, and with ``w = 1`` and ``b = 0``.

    Attributes:
        p0, p1: the vector where ``w tau`` is large, and where it is very negative.
        slope: w - 1, so that weight decay, if any reaches it, leads to w = 1.
        offset: b.

    Source: Liu et al., arXiv 2406.09416, time-dependent layer normalisation.
    """

    def __init__(self, width: int, start: nnx.Initializer, *, rngs: nnx.Rngs):
        self.p0 = nnx.Param(start(rngs.params(), (width,)))
        self.p1 = nnx.Param(start(rngs.params(), (width,)))
        self.slope = nnx.Param(jnp.zeros(width))
        self.offset = nnx.Param(jnp.zeros(width))

    def __call__(self, tau: Float[Array, "batch 1"]) -> Float[Array, "batch width"]:
        share = jax.nn.sigmoid((1 + self.slope[...]) * tau + self.offset[...])
        return self.p1[...] + share * (self.p0[...] - self.p1[...])


class TimeDependentNorm(nnx.Module):
    """Normalise channels, with a scale (and a shift) that depend on the time; in float32.

    Args:
        width: channels.
        kind: "layer" subtracts the mean and divides by the standard deviation, with a scale and a
            shift; "rms" divides by the root mean square, with a scale.

    Raises:
        ValueError: another kind.

    Source: Liu et al., arXiv 2406.09416; the published weights use both kinds.
    """

    def __init__(self, width: int, kind: str, *, rngs: nnx.Rngs):
        if kind not in KINDS:
            raise ValueError(f"norm {kind!r} is not one of {', '.join(KINDS)}")
        self.scale = TimeDependent(width, ones, rngs=rngs)
        if kind == "layer":
            self.shift = TimeDependent(width, zeros, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch ... width"], tau: Float[Array, "batch 1"]
    ) -> Float[Array, "batch ... width"]:
        """Normalise ``x`` at times ``tau``, one a sample, which the data see as -1 to 1."""
        x = x.astype(jnp.float32)

        def placed(vector):
            return vector(tau).reshape((tau.shape[0],) + (1,) * (x.ndim - 2) + (-1,))

        if hasattr(self, "shift"):
            x = x - x.mean(axis=-1, keepdims=True)
            deviation = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + CENTRED_EPSILON)
            return x / deviation * placed(self.scale) + placed(self.shift)
        square = (x**2).mean(axis=-1, keepdims=True)
        # The root's slope at 0 is infinite, and would make the gradient of zeros NaN.
        rms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        return x / (rms + RMS_EPSILON) * placed(self.scale)
