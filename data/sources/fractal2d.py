"""The two-class fractal of the autoguidance paper (Karras et al., arXiv 2406.02507, sec. 3).

Each class is a random tree of 127 branches with eight Gaussians along every branch: 1016
components a class, in two dimensions, with exact density, score and samples.
"""

import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from ...core.errors import UserError
from ...core.random import root_key
from ...core.registry import register
from ...models.exact.mixture import GaussianMixture
from ..source import Source
from ..splits import chosen_rows

CLASSES = ("A", "B")
NULL_LABEL = len(CLASSES)
# Splits of the data set, the classes that each draws from, and the points in it.
SPLITS = {"train": CLASSES, "A": ("A",), "B": ("B",)}
POINTS = 2**20
SIGMA_DATA = 0.5
# The paper's figures outline a class where -sqrt(max log p - log p) crosses this level.
OUTLINE_LEVEL = -2.12

SEED = 2
ORIGIN = np.array([0.0030, 0.0325])
SCALE = np.array([1.3136, 1.3844])
ROOT_ANGLES = {"A": math.pi / 4, "B": 5 * math.pi / 4}
DEPTH = 7
POSITIONS = np.linspace(0.07, 0.93, 8)


def _branch(random: np.random.RandomState, depth: int, start: np.ndarray, angle: float):
    """Yield (weight, mean, covariance) along one branch and then along its two subtrees."""
    if depth == DEPTH:
        return
    length = 0.292 * 0.8**depth * (1 + 0.2 * random.randn())
    thickness = 0.2 * 0.8**depth / length
    size = SCALE * length * 0.06
    direction = np.array([math.cos(angle), math.sin(angle)])
    along = np.outer(direction, direction)
    covariance = (along + (np.eye(2) - along) * thickness**2) * np.outer(size, size)
    for position in POSITIONS:
        yield length * 0.5**depth, (start + direction * length * position) * SCALE, covariance
    # The tips draw their children's angles too, though nothing grows there: the published
    # stream of random numbers contains those draws.
    for sign in (1, -1):
        turned = angle + sign * 0.7**depth * (1 + 0.2 * random.randn())
        yield from _branch(random, depth + 1, start + direction * length, turned)


@functools.cache
def _trees() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return weights [1016], means [1016, 2] and covariances [1016, 2, 2] of each class."""
    random = np.random.RandomState(SEED)  # one stream, so B depends on A being drawn first
    return {
        name: tuple(map(np.array, zip(*_branch(random, 0, ORIGIN, angle), strict=True)))
        for name, angle in ROOT_ANGLES.items()
    }


def _chosen(classes: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(classes)
    if not chosen or set(chosen) - set(CLASSES) or len(set(chosen)) < len(chosen):
        raise UserError(f"classes {chosen!r} of fractal2d: name A, B or both, each once")
    return tuple(sorted(chosen))


def mixture(classes: Iterable[str] = CLASSES) -> GaussianMixture:
    """Return the exact density of one class or of both, the weights normalised over them.

    Args:
        classes: of "A" and "B"; their order does not matter.

    Raises:
        UserError: no class, an unknown one, or one named twice.
    """
    parts = [_trees()[name] for name in _chosen(classes)]
    return GaussianMixture(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def sample(
    key: Key[Array, ""], count: int, classes: Iterable[str] = CLASSES
) -> tuple[Float[Array, "count 2"], Int[Array, " count"]]:
    """Draw points and their labels (0 for A, 1 for B); the i-th depends on (key, i) alone.

    Raises:
        UserError: as `mixture`.
    """
    chosen = _chosen(classes)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    points, component = mixture(chosen).draw(keys)
    labels = jnp.array([CLASSES.index(name) for name in chosen], jnp.int32)
    return points, labels[component // len(_trees()["A"][0])]


@register("source", name="fractal2d")
def load(split: str = "train") -> Source:
    """Return points of the fractal as a data set.

    Args:
        split: "train" for both classes, "A" or "B" for one; or a part of it, "train[:10%]".

    Raises:
        UserError: another split.
    """
    base, rows = chosen_rows(split, dict.fromkeys(SPLITS, POINTS), "fractal2d")
    points, labels = sample(root_key(0), POINTS, SPLITS[base])
    return Source(
        "fractal2d",
        (2,),
        len(CLASSES),
        x=np.asarray(points, np.float32)[rows.start : rows.stop],
        condition=np.asarray(labels, np.int32)[rows.start : rows.stop],
        # The constants rather than the points, whose last digits depend on the device.
        facts=lambda: {
            "fractal": {"seed": SEED, "classes": SPLITS[base], "rows": [rows.start, rows.stop]}
        },
    )


@functools.cache
def peak(classes: tuple[str, ...] = ("A",)) -> float:
    """Return the largest log-density of the classes, at sigma 0.

    It is taken over the component means: the densest components lie in a row, and the pulls of
    neighbours on both sides cancel, so that no point nearby is denser.
    """
    with jax.ensure_compile_time_eval():
        density = mixture(classes)
        return float(density.log_density(density.means).max())


def outside(
    log_density: Float[Array, " batch"], classes: tuple[str, ...] = ("A",)
) -> Bool[Array, " batch"]:
    """Tell which points lie outside the outline drawn in the paper's figures.

    A point is outside when ``sqrt(max log p - log p(x)) > 2.12``.

    Args:
        log_density: of the points under ``classes``, at sigma 0.
        classes: whose outline.
    """
    return peak(classes) - log_density > OUTLINE_LEVEL**2
