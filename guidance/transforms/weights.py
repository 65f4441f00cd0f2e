"""Guidance weights that change with the noise level (Wang et al., arXiv 2404.13040).

Time u runs from 1 (noise) to 0, and every shape g(u) has peak 1 before it is normalised to a mean
of 1 over [0, 1].
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.noise_levels import TIMES, checked_time
from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import per_sample, require_finite, single
from ..pushes import Push, Stateless
from ..references.cfg import from_null

FORMS = ("s", "w")
# The mean of (1 - cos(pi v^s)) / 2 over v in [0, 1], term by term: sum_k c_k / (2 k s + 1).
_ORDER = np.arange(1, 17)
_TERMS = np.array([-0.5 * (-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k) for k in _ORDER])


def _powered_cosine_mean(power):
    return jnp.sum(_TERMS.astype(power.dtype) / (2 * _ORDER.astype(power.dtype) * power + 1))


def _half(power):
    del power
    return 0.5


# name -> (shape of the time and the power, its mean over the time)
SHAPES = {
    "constant": (lambda u, power: jnp.ones_like(u), lambda power: 1.0),
    "linear": (lambda u, power: 1 - u, _half),
    "inverse_linear": (lambda u, power: u, _half),
    "cosine": (lambda u, power: (1 + jnp.cos(jnp.pi * u)) / 2, _half),
    "sine": (lambda u, power: (1 - jnp.cos(jnp.pi * u)) / 2, _half),
    "lambda": (lambda u, power: 1 - jnp.abs(2 * u - 1), _half),
    "v": (lambda u, power: jnp.abs(2 * u - 1), _half),
    "powered_cosine": (
        lambda u, power: (1 - jnp.cos(jnp.pi * (1 - u) ** power)) / 2,
        _powered_cosine_mean,
    ),
}


@pytree
class Scheduled(Stateless):
    """Multiply the push by a weight, less 1, that depends on the noise level."""

    scale: float | Array
    floor: float | Array | None
    power: float | Array
    shape: str = static()
    form: str = static()
    normalised: bool = static()
    time: str = static()

    def push_of(self, push, context):
        sigma = jnp.asarray(context.sigma, push.dtype)
        single("power", self.power, push.dtype)
        for name in ("scale", "floor"):
            if (value := getattr(self, name)) is not None:
                per_sample(name, value, push)
        return self.excess(TIMES[self.time](sigma)) * push

    def excess(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return ``w - 1`` at times ``u``."""
        scale, power = jnp.asarray(self.scale, u.dtype), jnp.asarray(self.power, u.dtype)
        shape, mean = SHAPES[self.shape]
        factor = shape(u, power) / (mean(power) if self.normalised else 1)
        excess = (scale - 1) * factor if self.form == "s" else scale * factor - 1
        if self.floor is None:
            return excess
        return jnp.maximum(excess, jnp.asarray(self.floor, u.dtype))


@register("transform", "2404.13040")
def scheduled(
    scale: float | Array,
    shape: str = "linear",
    *,
    form: str = "s",
    normalised: bool = True,
    floor: float | Array | None = None,
    power: float | Array = 1.0,
    time: str = "vp",
) -> Scheduled:
    """Return the transform that takes `scale`'s place where the scale changes with sigma.

    The push is multiplied by ``w(u) - 1``: ``(scale - 1) g(u)`` in form ``s``,
    ``scale g(u) - 1`` in form ``w``. The two agree where g is 1. `combine` must be given the
    noise level, for which it otherwise takes 1.

    Args:
        scale: mean of w over the time when normalised, else its peak. 1 is off, in form ``s``
            and without a floor. (The paper's omega is ``scale - 1``.)
        shape: g, as the noise level falls: ``constant``; rising are ``linear`` 1 - u, ``cosine``
            (1 + cos(pi u))/2 and ``powered_cosine`` (1 - cos(pi (1 - u)^power))/2; falling are
            ``inverse_linear`` u and ``sine`` (1 - cos(pi u))/2; ``lambda`` 1 - abs(2u - 1) peaks
            in the middle, where ``v`` is 0.
        form: whether g multiplies the s of ``D + s (D - D_ref)`` or the w of
            ``D_ref + w (D - D_ref)``.
        normalised: divide g by its mean over u in [0, 1]. (The mean over a sampler's steps
            depends on where its schedule puts them.)
        floor: least value of ``w - 1``, or None: the paper's clamp, with ``linear`` (there 1.1
            for CIFAR-10, 2 for Stable Diffusion 1.5 and 4 for XL).
        power: exponent of ``powered_cosine``, more than 0.
        time: which time u is, ``vp`` or ``flow`` (see `samplers.convert`).

    Raises:
        ValueError: unknown shape, form or time; a number that is not finite; a power that is not
            positive, or for another shape.

    Source: Wang et al., arXiv 2404.13040.
    """
    return _scheduled("scheduled", scale, shape, form, normalised, floor, power, time)


@register("rule", "2404.13040")
def scheduled_cfg(
    scale: float | Array,
    shape: str = "linear",
    *,
    form: str = "s",
    normalised: bool = True,
    floor: float | Array | None = None,
    power: float | Array = 1.0,
    time: str = "vp",
) -> Push:
    r"""Return classifier-free guidance with a weight that depends on the noise level.

    Arguments and errors are those of `scheduled`.

    Equation:
        w(u) = 1 + (w - 1) g(u), \quad \int_0^1 g(u) du = 1

    When to use: To spend the same guidance at other noise levels: rising shapes leave variety
    to the first steps and guide the details.

    Source: Wang et al., arXiv 2404.13040.
    """
    return from_null(
        _scheduled("scheduled_cfg", scale, shape, form, normalised, floor, power, time)
    )


def _scheduled(owner, scale, shape, form, normalised, floor, power, time) -> Scheduled:
    require_finite(owner, scale=scale, power=power)
    if floor is not None:
        require_finite(owner, floor=floor)
    if shape not in SHAPES:
        raise ValueError(
            f"guidance.{owner}: shape must be one of {', '.join(SHAPES)}, got {shape!r}"
        )
    if form not in FORMS:
        raise ValueError(f"guidance.{owner}: form must be one of {', '.join(FORMS)}, got {form!r}")
    if isinstance(power, (int, float)):
        if power <= 0:
            raise ValueError(f"guidance.{owner}: power must be more than 0, got {power}")
        if power != 1 and shape != "powered_cosine":
            raise ValueError(
                f"guidance.{owner}: power belongs to the shape powered_cosine, got {power} with "
                f"{shape!r}"
            )
    return Scheduled(scale, floor, power, shape, form, bool(normalised), checked_time(owner, time))
