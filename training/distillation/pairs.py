"""Pairs of noise levels ``to < sigma`` of one trajectory, drawn one a sample from its own key."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, ArrayLike, Float, Int, Key

from ..noise.levels import HALF_CELL, WHOLE, Noise, draw, shares


class Pair(NamedTuple):
    """Two noise levels a sample.

    Attributes:
        sigma: the higher, ``[batch]``.
        to: the lower, ``[batch]``; 0 is the data.
    """

    sigma: Float[Array, " batch"]
    to: Float[Array, " batch"]


class Grid(NamedTuple):
    """Karras' noise levels, of any number of nodes.

    Attributes:
        low, high: the lowest and the highest.
        rho: 7 is the field's.

    Source: Karras et al., arXiv 2206.00364, eq. 5.
    """

    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0

    def level(
        self, index: Int[ArrayLike, "..."], intervals: Int[ArrayLike, ""]
    ) -> Float[Array, "..."]:
        """Return a node's level: 0 is the lowest, ``intervals`` the highest; both may be traced."""
        bottom, top = (end ** (1 / self.rho) for end in (self.low, self.high))
        share = jnp.asarray(index, jnp.float32) / jnp.asarray(intervals, jnp.float32)
        inner = (bottom + share * (top - bottom)) ** self.rho
        # The ends themselves: a boundary condition holds there exactly.
        inner = jnp.where(share <= 0, self.low, inner)
        return jnp.where(share >= 1, self.high, inner)

    def index(
        self, sigma: Float[ArrayLike, "..."], intervals: Int[ArrayLike, ""]
    ) -> Int[Array, "..."]:
        """Return the interval that a level lies in, from 0."""
        bottom, top = (end ** (1 / self.rho) for end in (self.low, self.high))
        share = (jnp.asarray(sigma) ** (1 / self.rho) - bottom) / (top - bottom)
        place = jnp.floor(share * jnp.asarray(intervals, jnp.float32)).astype(jnp.int32)
        return jnp.clip(place, 0, jnp.asarray(intervals) - 1)


def neighbours(
    grid: Grid, intervals: Int[ArrayLike, ""], keys: Key[Array, " batch"], span: tuple = WHOLE
) -> Pair:
    """Draw one of a grid's intervals a sample, each equally often.

    Args:
        grid: of the noise levels.
        intervals: how many, perhaps traced.
        keys: one a sample.
        span: shares of the intervals between which to draw, as of `noise.levels.draw`.
    """
    share = shares(keys, span)
    count = jnp.asarray(intervals, jnp.int32)
    index = jnp.clip((share * count).astype(jnp.int32), 0, count - 1)
    return Pair(grid.level(index + 1, count), grid.level(index, count))


def log_normal_neighbours(
    grid: Grid,
    intervals: Int[ArrayLike, ""],
    keys: Key[Array, " batch"],
    mean: float = -1.1,
    std: float = 2.0,
    span: tuple = WHOLE,
) -> Pair:
    """Draw one of a grid's intervals by the mass that ``ln(sigma) ~ N(mean, std^2)`` has in it.

    ``p(n) ~ erf((ln s_{n+1} - P_mean) / (sqrt(2) P_std)) - erf((ln s_n - P_mean) / ...)``.

    Source: Song & Dhariwal, arXiv 2310.14189, eq. 10.
    """
    low, high = (NormalDist(mean, std).cdf(math.log(end)) for end in (grid.low, grid.high))
    share = low + (high - low) * shares(keys, span)
    sigma = jnp.exp(mean + std * ndtri(jnp.clip(share, HALF_CELL, 1 - HALF_CELL)))
    index = grid.index(sigma, intervals)
    return Pair(grid.level(index + 1, intervals), grid.level(index, intervals))


def of_table(levels: Sequence[float], keys: Key[Array, " batch"], span: tuple = WHOLE) -> Pair:
    """Draw neighbours of a table of increasing levels, each pair equally often."""
    table = jnp.asarray(np.asarray(levels, np.float32))
    count = len(levels) - 1
    index = jnp.clip((shares(keys, span) * count).astype(jnp.int32), 0, count - 1)
    return Pair(table[index + 1], table[index])


def any_two(
    noise: Noise, keys: Key[Array, " batch"], equal: float = 0.0, span: tuple = WHOLE
) -> Pair:
    """Draw two levels of a distribution, the higher first; a share of the samples has them equal.

    The interval of a flow map (CTM, MeanFlow, shortcut models).

    Args:
        noise: the distribution.
        keys: one a sample.
        equal: probability with which ``to`` is ``sigma``.
        span: part of the distribution.
    """
    streams = [jax.vmap(jax.random.fold_in, (0, None))(keys, n) for n in range(3)]
    one, other = (draw(noise, stream, span) for stream in streams[:2])
    sigma = jnp.maximum(one, other)
    same = jax.vmap(jax.random.uniform)(streams[2]) < equal
    return Pair(sigma, jnp.where(same, sigma, jnp.minimum(one, other)))
