"""Distances between a student's and its target's output, one number a sample.

The distance is part of where consistency *training* ends: a squared one ends at the conditional
mean of what the target gives, a sharp one at the median. Distillation from a teacher's step has
one target a point, and ends at the same whatever the distance.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.checks import at_least_0, require_ranges
from ...core.errors import UserError
from ...models.spec import Spec
from ..losses.loss import over_elements
from ..losses.lpips import LPIPS, is_vgg, read_lpips
from ..losses.perceptual import from_weights

Distance = Callable[[Float[Array, " batch *shape"], Float[Array, " batch *shape"]], Array]
# Of the square root of a sample's dimension: iCT's constant.
PER_ROOT_DIMENSION = 0.00054


def squared(
    made: Float[Array, " batch *shape"], target: Float[Array, " batch *shape"]
) -> Float[Array, " batch"]:
    """Return the squared error, mean over the elements."""
    return over_elements(jnp.mean, (made - target) ** 2)


def pseudo_huber(c: float | None = None, per: str = "sample") -> Distance:
    """Return ``sqrt(|a - b|^2 + c^2) - c``.

    Args:
        c: where it turns from a square into a norm; None for ``0.00054 sqrt(dim)``. 0 is the norm
            itself.
        per: ``sample``, of the norm of all elements (iCT, ECT), or ``element``, mean over them
            (LCM).

    Raises:
        UserError: c below 0, or another ``per``.

    Source: Song & Dhariwal, arXiv 2310.14189, eq. 6; Luo et al., arXiv 2310.04378.
    """
    if c is not None:
        require_ranges("training.loss.distance", {"c": c}, {"c": at_least_0("0 is the norm")})
    if per not in ("sample", "element"):
        raise UserError(f"training.loss.distance: per is sample or element, got {per!r}")

    def distance(made, target):
        # The dtype's smallest number keeps the gradient of what is zero finite.
        square = (made - target) ** 2
        if per == "sample":
            square = over_elements(jnp.sum, square)
        dim = math.prod(made.shape[1:])
        chosen = PER_ROOT_DIMENSION * math.sqrt(dim) if c is None else c
        value = _root(square + chosen**2) - chosen
        return value if per == "sample" else over_elements(jnp.mean, value)

    return distance


def _root(square: Array) -> Array:
    """Return the square root, with the gradient 0 at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def norm() -> Distance:
    """Return ``|a - b|``, the norm of a sample's error."""
    return pseudo_huber(0.0)


def adaptive(
    error: Float[Array, " batch"], c: float = 1e-3, power: float = 1.0
) -> Float[Array, " batch"]:
    """Return ``error / sg(error + c)^power``: a loss whose gradient does not grow with the error.

    Args:
        error: squared errors, summed over the elements.
        c: keeps small errors' gradients finite.
        power: 0 leaves errors as they are; at 1 the gradient is that of ``log(error + c)``.

    Source: Geng et al., arXiv 2505.13447, eq. 22.
    """
    return error / jax.lax.stop_gradient(error + c) ** power


def perceptual(spec: Spec, features: str = "", lpips: str = "") -> Distance:
    """Return a distance in the features of a network, between images in [-1, 1].

    Args:
        spec: of the network that makes the images.
        features, lpips: weights, as of the loss ``autoencoding``.

    Raises:
        UserError: latents, or weights that are not of features of such images.
    """
    if spec.latent or len(spec.shape) != 3:
        raise UserError(
            "training.loss.distance: a perceptual distance is between images, and the network "
            "makes none: take squared or pseudo_huber"
        )
    if not features:
        raise UserError(
            "training.loss.distance: name the weights of what a perceptual distance compares "
            "features of: features='...'"
        )
    if lpips or is_vgg(features):
        found = read_lpips(features, lpips)
        return found if spec.shape[0] >= LPIPS_SIDE else _enlarged(found)
    return from_weights(features, spec.shape)


# Smaller images are enlarged to it, as consistency models' code does.
LPIPS_SIDE = 224


def _enlarged(distance: LPIPS) -> Distance:
    def at_224(made, target):
        both = (
            jax.image.resize(x, (x.shape[0], LPIPS_SIDE, LPIPS_SIDE, x.shape[-1]), "bilinear")
            for x in (made, target)
        )
        return distance(*both)

    return at_224


def distance_of(section: str | Mapping[str, Any], spec: Spec) -> Distance:
    """Read the field ``distance`` of a loss: a name, or a mapping of it and its arguments.

    ``squared``; ``pseudo_huber`` (c, per); ``norm``; ``perceptual`` (features, lpips).

    Raises:
        UserError: an unknown name or argument, or a value that is refused.
    """
    fields = {"name": section} if isinstance(section, str) else dict(section)
    name = fields.pop("name", None)
    known: dict[Any, Callable] = {
        "squared": lambda: squared,
        "pseudo_huber": pseudo_huber,
        "norm": norm,
        "perceptual": lambda **given: perceptual(spec, **given),
    }
    if name not in known:
        raise UserError(f"training.loss.distance {name!r} is not one of {', '.join(known)}")
    try:
        return known[name](**fields)
    except TypeError as error:
        raise UserError(f"training.loss.distance {name}: {error}") from error
