"""Particles side by side in the batch: a group's are consecutive and draw from one distribution.

All that belongs to a particle follows it: one index moves whole carries.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# The axis of what no sample has for itself, such as a count of steps.
SHARED = -1


def batch_axes(init: Callable[[Any], Any], x: Float[Array, " batch *shape"]) -> Any:
    """Return, for each array of a state, which axis goes over the samples; `SHARED` for none.

    Args:
        init: makes the state of samples.
        x: samples.
    """

    def shapes(batch):
        return jax.eval_shape(init, jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype))

    def axis(one, two):
        differ = [n for n, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
        return differ[0] if differ else SHARED

    # What differs between two sizes of a batch goes over the batch.
    return jax.tree.map(axis, shapes(2), shapes(3))


def reindex(tree: Any, ancestors: Int[Array, " batch"], axes: Any = None) -> Any:
    """Return what belongs to each sample's ancestor.

    Args:
        tree: pytree of arrays, over the samples.
        ancestors: the sample that each place is taken by.
        axes: see `batch_axes`; None where it is the first of every array.
    """
    axes = jax.tree.map(lambda _: 0, tree) if axes is None else axes

    def one(leaf, axis):
        return leaf if axis == SHARED else jnp.take(leaf, ancestors, axis=axis)

    return jax.tree.map(one, tree, axes)


def select(tree: Any, chosen: Int[Array, " batch"], axes: Any = None) -> Any:
    """Return what belongs to each sample's chosen candidate.

    Args:
        tree: pytree of arrays with the candidates in front, then as in `reindex`.
        chosen: the candidate of each sample.
        axes: as in `reindex`, not counting the candidates.
    """
    axes = jax.tree.map(lambda _: 0, tree) if axes is None else axes

    def one(leaf, axis):
        if axis == SHARED:
            return leaf[0]
        by_sample = jnp.moveaxis(leaf, axis + 1, 1)
        return jnp.moveaxis(by_sample[chosen, jnp.arange(len(chosen))], 0, axis)

    return jax.tree.map(one, tree, axes)


def checked_particles(owner: str, particles: Any) -> int:
    """Return how many particles a group has.

    Raises:
        ValueError: no whole number from 1, in the name of ``samplers.owner``.
    """
    if isinstance(particles, bool) or particles < 1 or particles != int(particles):
        raise ValueError(
            f"samplers.{owner}: particles must be a positive integer, got {particles!r}"
        )
    return int(particles)


def check_groups(owner: str, size: int, batch: int, condition: Any) -> None:
    """Refuse groups that are not whole, or whose particles have different conditions.

    Conditions that are traced, or on other hosts, cannot be looked at and pass.

    Raises:
        ValueError: in the name of ``samplers.owner``.
    """
    if batch % size:
        raise ValueError(
            f"samplers.{owner}: {batch} samples are no whole number of groups of {size} "
            f"particles: choose a batch that particles divides"
        )
    for leaf in jax.tree.leaves(condition):
        if isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True):
            continue
        if np.shape(leaf)[:1] != (batch,):
            continue
        groups = np.asarray(leaf).reshape(batch // size, size, -1)
        if (groups != groups[:, :1]).any():
            raise ValueError(
                f"samplers.{owner}: the {size} particles of a group draw from one distribution "
                f"and need one condition: repeat each condition {size} times, as in "
                f"{owner}(particles=64) with jnp.repeat(labels, 64)"
            )
