"""Time-step guidance: the reference is told a slightly wrong noise level.

Sadat et al., arXiv 2407.02687. Needs no condition at all.
"""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Key

from ...core.noise_levels import TIMES, checked_time
from ...core.pytrees import pytree, static
from ...core.random import normal_like, require_keys
from ...core.registry import register
from ...core.sites import TIME_EMBEDDING
from ..protocol import Branch, require_finite, single
from ..pushes import Perturbed, Push, Scale

NAME = "perturbed_time"
TIMESTEPS = 1000


@pytree
class NoisyTimeEmbedding:
    """Add Gaussian noise to the embedding of the noise level.

    Attributes:
        keys: one a sample.
        strength: standard deviation of the noise.
        std_scaling: multiply it by each sample's own standard deviation.
    """

    keys: Key[Array, " batch"]
    strength: float | Array
    std_scaling: bool = static()

    name: ClassVar[str] = NAME
    site: ClassVar[str] = TIME_EMBEDDING
    layers: ClassVar[None] = None

    def time_embedding(self, embedding):
        wide = embedding.astype(jnp.promote_types(embedding.dtype, jnp.float32))
        strength = jnp.asarray(self.strength, wide.dtype)
        if self.std_scaling:
            if wide.size == wide.shape[0]:
                raise ValueError(
                    "guidance.tsg: this network's time embedding is one number, which has no "
                    "standard deviation to scale the noise by: use std_scaling=False"
                )
            strength = strength * wide.std(axis=tuple(range(1, wide.ndim)), keepdims=True)
        return (wide + strength * normal_like(self.keys, wide)).astype(embedding.dtype)


@pytree
class PerturbedTime(Perturbed):
    """The prediction with a noisy embedding of the noise level, drawn at every evaluation."""

    s: float | Array
    alpha: float | Array
    std_scaling: bool = static()
    integer_time: bool = static()
    time: str = static()

    def branch(self, x, sigma, key):
        t = jnp.asarray(TIMES[self.time](sigma), x.dtype)
        if self.integer_time:
            t = jnp.round(TIMESTEPS * t)
        s, alpha = single("s", self.s, x.dtype), single("alpha", self.alpha, x.dtype)
        mode = NoisyTimeEmbedding(require_keys(NAME, key), s * t**alpha, self.std_scaling)
        return Branch(modes=(mode,), name=NAME)


@register("reference", "2407.02687")
def perturbed_time(
    s: float | Array = 2.0,
    alpha: float | Array = 1.0,
    *,
    std_scaling: bool = True,
    integer_time: bool = False,
    time: str = "vp",
) -> PerturbedTime:
    """Return the reference of TSG: noise ``s t^alpha n`` added to the time embedding.

    n is unit normal, drawn anew for every sample and evaluation, and is added to what the
    network's embedder of the noise level gives. In `combine` the prediction goes by the name
    ``perturbed_time``. Limit it to noise levels with `between`.

    Args:
        s: strength; 0 makes the reference the plain prediction.
        alpha: power of the time.
        std_scaling: multiply by the standard deviation of each sample's embedding, so that s
            means the same in networks whose embeddings differ in size.
        integer_time: t counts timesteps from 0 to 1000 instead of running from 0 to 1. The
            published s = 2 and alpha = 1 come without a word on it; 2000 times an embedding's
            own spread would leave nothing of it.
        time: which time t is, ``vp`` or ``flow`` (see `samplers.convert`).

    Raises:
        ValueError: a number that is not finite, a negative s, an unknown time.

    Source: Sadat et al., arXiv 2407.02687.
    """
    return _perturbed_time("perturbed_time", s, alpha, std_scaling, integer_time, time)


@register("rule", "2407.02687")
def tsg(
    scale: float | Array,
    *,
    s: float | Array = 2.0,
    alpha: float | Array = 1.0,
    std_scaling: bool = True,
    integer_time: bool = False,
    time: str = "vp",
) -> Push:
    r"""Return time-step guidance, ``D_perturbed + scale * (D_given - D_perturbed)``.

    ``D_perturbed`` sees a noisy time embedding; `perturbed_time` explains the other arguments.

    Equation:
        D = D_{\tilde t} + w (D_t - D_{\tilde t}), \quad e(\tilde t) = e(t) + s t^\alpha
        \mathrm{std}(e) n

    When to use: For networks without a null condition, or without any condition: only the
    embedding of the noise level is perturbed. Lower s if samples fall apart.

    Args:
        scale: 1 is off.

    Raises:
        ValueError: scale not finite, and as `perturbed_time`.

    Source: Sadat et al., arXiv 2407.02687.
    """
    require_finite("tsg", scale=scale)
    return Push(Scale(scale), _perturbed_time("tsg", s, alpha, std_scaling, integer_time, time))


def _perturbed_time(owner, s, alpha, std_scaling, integer_time, time):
    require_finite(owner, s=s, alpha=alpha)
    if isinstance(s, (int, float)) and s < 0:
        raise ValueError(f"guidance.{owner}: s must not be negative, got {s}; 0 perturbs nothing")
    time = checked_time(owner, time)
    return PerturbedTime(s, alpha, bool(std_scaling), bool(integer_time), time)
