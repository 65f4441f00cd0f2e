"""A denoiser as a classifier: the class under which it denoises an image best (2303.16203)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ..core.errors import UserError
from ..core.random import NOISE, fold_each, normal_like, sample_keys

# Of van der Corput's sequence, any beginning of which is spread evenly.
BASE = 2


class Stage(NamedTuple):
    """How far a class is looked at before classes are left behind.

    Attributes:
        draws: of noise for each class that is left, those of earlier stages included.
        keep: how many classes go on.
    """

    draws: int
    keep: int


class Classified(NamedTuple):
    """What a denoiser takes images for.

    Attributes:
        classes: that of the lowest error, by image.
        errors: mean of ``|eps - eps_hat|^2`` over an image's numbers and over the draws that the
            class was given; comparable between classes of as many draws.
        draws: that each class was given: the evaluations of the network that it cost.
    """

    classes: Int[np.ndarray, " image"]
    errors: Float[np.ndarray, "image class"]
    draws: Int[np.ndarray, "image class"]


def diffusion_classifier(
    denoiser: Callable,
    images: Float[np.ndarray, " image *shape"],
    *,
    sigmas: Sequence[float] | Float[np.ndarray, " level"],
    key: Key[Array, ""],
    stages: Sequence[tuple[int, int]] = (),
    num_classes: int | None = None,
    indices: Int[np.ndarray, " image"] | None = None,
    batch_size: int = 256,
    progress: Callable[[int], Any] = lambda count: None,
) -> Classified:
    r"""Name the class :math:`\arg\min_c E\,|\epsilon - \hat\epsilon(x + \sigma\epsilon, c)|^2`.

    2303.16203, equation 7 and algorithm 1: the expectation is over the noise levels and over
    noise, of which every class of an image is given the same (section 4.1: the difference of two
    classes' errors varies far less than each error). Levels even in log sigma weight the errors as
    the log-likelihood does, :math:`-\log p(x|c) = \int E|x - D|^2 \sigma^{-3} d\sigma` up to
    a constant: with an exact denoiser the class is then the likeliest one.

    Args:
        denoiser: from ``(x, sigma, label)`` to x0 estimates; a pytree, as `models.load` and
            `models.wrap` make them.
        images: as the denoiser knows them, pictures in [-1, 1].
        sigmas: one noise level a draw; their order does not matter.
        key: the root of the noise. An image's own comes from its index: it is the same in any
            batch.
        stages: ``(draws, keep)``, both from stage to stage: after so many draws the ``keep``
            classes of the lowest error go on. The last one ends with all ``sigmas`` and keeps 1.
            Empty: every class is given every draw.
        num_classes: labels are 0 to ``num_classes - 1``; the denoiser's own if None.
        indices: of the images in their set; 0, 1, ... if None.
        batch_size: samples that the network is given at a time.
        progress: is told how many images are done.

    Raises:
        UserError: a denoiser that knows no classes or is no pytree, stages that are none, no noise
            levels, or errors that are not finite.
    """
    images = np.asarray(images, np.float32)
    classes = num_classes or int(getattr(denoiser, "num_classes", 0))
    if classes < 2:
        raise UserError(
            "diffusion_classifier: the denoiser knows no classes to choose from: give one that was "
            "trained with labels, or num_classes"
        )
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(denoiser)):
        raise UserError(
            "diffusion_classifier: the denoiser is no pytree, so that its weights could change "
            "unseen: make one of it by guidestar.models.wrap"
        )
    levels = _spread(sigmas)
    plan = require_stages(stages, len(levels), classes)
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    errors = np.zeros((len(images), classes))
    draws = np.zeros((len(images), classes), np.int64)
    left = np.tile(np.arange(classes, dtype=np.int32), (len(images), 1))
    begin = 0
    for number, stage in enumerate(plan):
        numbers = np.arange(begin, stage.draws)
        rows = max(1, batch_size // left.shape[1])
        for start in range(0, len(images), rows):
            own = np.arange(start, min(start + rows, len(images)))
            # Filled up by repeating images, whose errors are dropped: one program a stage.
            full = np.resize(own, rows)
            keys = sample_keys(key, NOISE, indices[full])
            found = _errors(denoiser, images[full], left[full], keys, levels[numbers], numbers)
            found = np.asarray(jax.device_get(found), np.float64)[: len(own)]
            _require_finite(found, indices[own])
            errors[own[:, None], left[own]] += found
            draws[own[:, None], left[own]] += len(numbers)
            if number == len(plan) - 1:
                progress(len(own))
        mean = np.take_along_axis(errors / np.maximum(draws, 1), left, axis=1)
        best = np.argsort(mean, axis=1, kind="stable")[:, : stage.keep]
        left = np.take_along_axis(left, best, axis=1)
        begin = stage.draws
    return Classified(left[:, 0], errors / draws, draws)


def require_stages(
    stages: Sequence[tuple[int, int]], draws: int, classes: int, where: str = "stages"
) -> tuple[Stage, ...]:
    """Return stages that lead from all classes to one.

    Args:
        stages: ``(draws, keep)`` each; one of all draws where there are none.
        draws: that there are in all.
        classes: that there are at first.
        where: what messages call the stages.

    Raises:
        UserError: draws that do not rise to all of them, or classes that do not fall to one.
    """
    plan = tuple(Stage(int(one[0]), int(one[1])) for one in stages) or (Stage(draws, 1),)
    rising = all(a.draws < b.draws for a, b in zip(plan, plan[1:], strict=False))
    falling = all(a.keep > b.keep for a, b in zip(plan, plan[1:], strict=False))
    if not (rising and plan[0].draws > 0 and plan[-1].draws == draws):
        raise UserError(
            f"{where}: draws are {[one.draws for one in plan]}: they rise from stage to stage, and "
            f"the last are {draws}, one for each noise level"
        )
    if not (falling and plan[0].keep < classes and plan[-1].keep == 1) and len(plan) > 1:
        raise UserError(
            f"{where}: of {classes} classes {[one.keep for one in plan]} go on: fewer from stage "
            f"to stage, and one in the end"
        )
    if plan[-1].keep != 1:
        raise UserError(f"{where}: the last one keeps {plan[-1].keep} classes, and is to keep 1")
    return plan


def _spread(sigmas: Any) -> Float[np.ndarray, " level"]:
    """Return levels in an order of which any beginning covers all of them evenly."""
    levels = np.sort(np.asarray(sigmas, np.float64).ravel())
    if not levels.size or not (np.isfinite(levels).all() and levels[0] > 0):
        raise UserError("diffusion_classifier: sigmas are one or more numbers above 0")
    return levels[np.argsort(np.argsort([_radical_inverse(i) for i in range(len(levels))]))].astype(
        np.float32
    )


def _radical_inverse(number: int) -> float:
    """Return van der Corput's sequence: a number's digits behind the point, in reverse."""
    value, share = 0.0, 1.0 / BASE
    while number:
        number, digit = divmod(number, BASE)
        value, share = value + digit * share, share / BASE
    return value


@jax.jit
def _errors(
    denoiser: Any,
    images: Float[Array, " image *shape"],
    classes: Int[Array, "image class"],
    keys: Key[Array, " image"],
    sigmas: Float[Array, " draw"],
    numbers: Int[Array, " draw"],
) -> Float[Array, "image class"]:
    """Return the sum over draws of ``|x - D|^2 / sigma^2``, which is ``|eps - eps_hat|^2``."""
    choices = classes.shape[1]

    def repeated(values):
        return jnp.repeat(values, choices, axis=0)

    def one(total, draw):
        sigma, number = draw
        noise = normal_like(fold_each(keys, number), images)
        denoised = denoiser(repeated(images + sigma * noise), sigma, classes.reshape(-1))
        missed = jnp.square((repeated(images) - denoised) / sigma)
        mean = missed.reshape(*classes.shape, math.prod(images.shape[1:])).mean(-1)
        return total + mean, None

    start = jnp.zeros(classes.shape, jnp.float32)
    return jax.lax.scan(one, start, (sigmas, numbers))[0]


def _require_finite(found: np.ndarray, indices: np.ndarray) -> None:
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        raise UserError(
            f"diffusion_classifier: the errors of image {int(indices[bad][0])} are not finite: a "
            f"noise level beyond what the network knows, or a model.dtype too narrow, may be why"
        )
