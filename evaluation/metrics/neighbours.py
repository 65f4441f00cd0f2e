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

    def whole(self, block: slice) -> Float[np.ndarray, "block m"]:
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
    pair = Pair(features, features)
    radii = np.empty(len(features))
    kept = min(k + 1 + SPARE, len(features))
    for block, rough in pair.blocks():
        rows = np.arange(len(features))[block]
        # The sample itself is the nearest.
        rough[np.arange(len(rows)), rows] = -np.inf
        near = np.argpartition(rough, kept - 1, axis=1)[:, :kept]
        found = np.take_along_axis(rough, near, axis=1)
        sums = pair.first.norms[block, None] + pair.second.norms[near]
        slack = pair.error * sums
        # No neighbour that was not kept is nearer than the k-th can be.
        furthest = np.partition(found + slack, k, axis=1)[:, k]
        beyond = found.max(axis=1) - pair.error * (
            pair.first.norms[block] + float(pair.second.norms.max())
        )
        open_rows = (beyond <= furthest) & (kept < len(features))
        if open_rows.mean() > MANY:
            radii[block] = np.partition(pair.whole(block), k, axis=1)[:, k]
            continue
        for i, row in enumerate(rows):
            columns = np.arange(len(features)) if open_rows[i] else near[i]
            radii[row] = np.partition(pair.exact(row, columns), k)[k]
    return radii


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
