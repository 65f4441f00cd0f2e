"""Which samples lie within which radius, exactly, at the speed of a float32 matrix product.

Distances are differences in float64, not the ``|a|^2 + |b|^2 - 2ab`` expansion, whose rounding
would decide at random the ties that copied training images produce. The expansion in float32 only
sorts out: its error is bounded, and pairs that the bound leaves open are computed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import cdist

from . import feature_sets
from .feature_sets import row_blocks

# Neighbours beyond the k-th that are kept while the nearest are looked for.
SPARE = 8
# Of a block, as a share of its pairs: with more open ones all of it is computed.
MANY = 0.05


class Scaled(NamedTuple):
    """Features as the sorting out takes them.

    Attributes:
        exact: as they were given, for what is computed.
        rough: float32, centred and scaled to norms of 1 or less.
        norms: squared, of ``rough``.
    """

    exact: Float[np.ndarray, "sample feature"]
    rough: Float[np.ndarray, "sample feature"]
    norms: Float[np.ndarray, " sample"]


class Pair:
    """Two sets of samples, or one against itself, in one scale.

    Args:
        first, second: features, floating-point numbers.

    Attributes:
        first, second: as they are sorted out.
        error: of a squared distance, as a share of the sum of both squared norms.
        scale: of a distance as it was given, to one of the rough features.
    """

    def __init__(
        self, first: Float[np.ndarray, "n feature"], second: Float[np.ndarray, "m feature"]
    ):
        features = first.shape[1]
        centre = sum(
            first[block].astype(np.float64).sum(axis=0)
            for block in row_blocks(len(first), features)
        ) / len(first)
        sets = (first,) if second is first else (first, second)
        largest = max(
            float(np.sqrt(np.square(one[block] - centre).sum(axis=1)).max())
            for one in sets
            for block in row_blocks(len(one), features)
        )
        self.scale = 1 / largest if largest > 0 else 1.0
        made = [_scaled(one, centre, self.scale) for one in sets]
        self.first, self.second = made[0], made[-1]
        # Of a dot product of d float32 numbers, whatever the order of its sum: d units of rounding
        # times the product of the norms, which is at most half the sum of their squares; a few more
        # for the conversion, and for what is added to it.
        rounding = (features + 16) * 2.0**-24
        self.error = rounding / (1 - rounding) if rounding < 0.5 else np.inf

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "block m"]]]:
        """Yield rows of the first set and their rough squared distances to the second."""
        for block in row_blocks(len(self.first.rough), len(self.second.rough)):
            rough = self.first.rough[block] @ self.second.rough.T
            rough *= -2
            rough += self.first.norms[block, None]
            rough += self.second.norms
            yield block, rough

    def slack(self, block: slice) -> Float[np.ndarray, "block m"]:
        """Return how far the rough squared distances of a block may be off."""
        return np.float32(self.error) * (self.first.norms[block, None] + self.second.norms)

    def exact(self, row: int, columns: Int[np.ndarray, " column"]) -> Float[np.ndarray, " column"]:
        """Return the distances of one sample of the first set to some of the second."""
        found = cdist(_double(self.first.exact[row : row + 1]), _double(self.second.exact[columns]))
        return found[0]

    def whole(self, block: slice | Int[np.ndarray, " block"]) -> Float[np.ndarray, "block m"]:
        """Return the distances of a block of the first set to all of the second."""
        step = max(1, 2**24 // max(1, self.second.exact.shape[1]))
        return np.concatenate(
            [
                cdist(_double(self.first.exact[block]), _double(self.second.exact[at : at + step]))
                for at in range(0, len(self.second.exact), step)
            ],
            axis=1,
        )

    def rough_radius(self, radii: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Return the squares of radii in the scale of rough distances."""
        return np.square(radii * self.scale).astype(np.float32)


def nearest_radii(
    features: Float[np.ndarray, "sample feature"], k: int
) -> Float[np.ndarray, " sample"]:
    """Return each sample's distance to its k-th nearest neighbour, itself not counted."""
    count = len(features)
    pair, kept = Pair(features, features), min(k + 1 + SPARE, count)
    rows, columns, rough = _candidates(pair, kept)
    starts = np.searchsorted(rows, np.arange(count + 1))
    norms, largest = pair.first.norms, float(pair.first.norms.max())
    radii = np.empty(count)
    unsure = []
    for row in range(count):
        mine = slice(starts[row], starts[row + 1])
        order = np.argsort(rough[mine], kind="stable")[:kept]
        near, found = columns[mine][order], rough[mine][order]
        slack = pair.error * (norms[row] + norms[near])
        # No sample that was not kept is nearer than the k-th can be.
        furthest = np.partition(found + slack, k)[k]
        if kept < count and found[-1] - pair.error * (norms[row] + largest) <= furthest:
            unsure.append(row)
        else:
            radii[row] = np.partition(pair.exact(row, near), k)[k]
    for block in row_blocks(len(unsure), count):
        some = np.array(unsure[block])
        radii[some] = np.partition(pair.whole(some), k, axis=1)[:, k]
    return radii


def _candidates(
    pair: Pair, kept: int
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"], Float[np.ndarray, " found"]]:
    """Return rows, columns and rough squared distances that hold the nearest of each sample.

    The ``kept`` nearest of each row of each block are among them, sorted by row; a sample is the
    nearest to itself. Blocks above the diagonal serve for those below it.
    """
    rough, norms, count = pair.first.rough, pair.first.norms, len(pair.first.rough)
    found = []
    side = max(1, int(feature_sets.BLOCK_NUMBERS**0.5))
    for top in range(0, count, side):
        for left in range(top, count, side):
            one, other = slice(top, top + side), slice(left, left + side)
            block = rough[one] @ rough[other].T
            block *= -2
            block += norms[one, None]
            block += norms[other]
            if left == top:
                np.fill_diagonal(block, -np.inf)
            rows, columns, values = _smallest(block, kept)
            found.append((rows + top, columns + left, values))
            if left > top:
                rows, columns, values = _smallest(np.ascontiguousarray(block.T), kept)
                found.append((rows + left, columns + top, values))
    rows, columns, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(rows, kind="stable")
    return rows[order], columns[order], values[order]


def _smallest(
    block: Float[np.ndarray, "row column"], kept: int
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"], Float[np.ndarray, " found"]]:
    """Return places and values of the smallest of each row."""
    height, width = block.shape
    kept = min(kept, width)
    limits = np.partition(block, kept - 1, axis=1)[:, kept - 1]
    rows, columns = np.nonzero(block <= limits[:, None])
    if len(rows) > 2 * kept * height:  # many are equal
        columns = np.argpartition(block, kept - 1, axis=1)[:, :kept].reshape(-1)
        rows = np.repeat(np.arange(height), kept)
    return rows, columns, block[rows, columns]


def within(
    pair: Pair, block: slice, rough: Float[np.ndarray, "block m"], radii, closed: bool
) -> Bool[np.ndarray, "block m"]:
    """Return which distances of a block are below radii, or with ``closed`` at most.

    Args:
        pair: the sets.
        block, rough: as `Pair.blocks` yields them.
        radii: one a row, ``[block, 1]``, or one a column, ``[m]``.
        closed: whether a distance that is equal counts.
    """
    compare = np.less_equal if closed else np.less
    radii = np.asarray(radii)
    limits = pair.rough_radius(radii)
    slack = pair.slack(block)
    # A limit is rounded, too.
    slack += np.float32(2.0**-22) * limits + np.float32(1e-30)
    inside = rough < limits
    unsure = np.abs(rough - limits) <= slack
    count = np.count_nonzero(unsure)
    if not count:
        return inside
    if count > MANY * unsure.size:
        return compare(pair.whole(block), radii)
    full = np.broadcast_to(radii, inside.shape)
    for i in np.flatnonzero(unsure.any(axis=1)):
        columns = np.flatnonzero(unsure[i])
        distances = pair.exact((block.start or 0) + i, columns)
        inside[i, columns] = compare(distances, full[i, columns])
    return inside


def _scaled(features, centre, scale: float) -> Scaled:
    rough = np.empty(features.shape, np.float32)
    norms = np.empty(len(features), np.float32)
    for block in row_blocks(*features.shape):
        moved = (features[block] - centre) * scale
        rough[block] = moved
        norms[block] = np.square(moved).sum(axis=1)
    return Scaled(features, rough, norms)


def _double(features):
    return np.asarray(features, np.float64)
