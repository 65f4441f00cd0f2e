"""Precision, recall, density and coverage from nearest-neighbour balls.

Precision and recall: Kynkaanniemi et al., arXiv 1904.06991, eq. 1-3. Density and coverage: Naeem
et al., arXiv 2002.09797, eq. 3-4. The first pair counts the surface of a ball (<=), the second
does not (<), each as its paper defines it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from ...core.registry import register
from .feature_sets import checked_pair, images_needed, row_blocks


class ManifoldScores(NamedTuple):
    """Fidelity (precision, density) and variety (recall, coverage) of a generated set.

    Attributes:
        precision: share of fakes inside some real sample's ball.
        recall: share of reals inside some fake sample's ball.
        density: real balls around a fake, on average, over k; 1 expected for equal distributions,
            and no upper bound of 1.
        coverage: share of reals with a fake inside their ball; for equal distributions and sizes
            N expected ``1 - prod_(j=1..k) (N - j) / (2N - j)``, about ``1 - 2^-k``.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def nearest_radii(
    features: Float[np.ndarray, "sample feature"], neighbours: int
) -> Float[np.ndarray, " sample"]:
    """Return each sample's distance to its k-th nearest neighbour, itself not counted."""
    count = len(features)
    radii = np.empty(count)
    for block in row_blocks(count, count):
        # Index 0 after sorting is the sample itself, at distance exactly 0.
        radii[block] = np.partition(cdist(features[block], features), neighbours)[:, neighbours]
    return radii


def manifold_scores(
    real: Float[np.ndarray, "n feature"],
    fake: Float[np.ndarray, "m feature"],
    *,
    neighbours: int = 5,
) -> ManifoldScores:
    """Return precision, recall, density and coverage of ``fake`` with respect to ``real``.

    Distances are exact differences in float64, not the ``|a|^2 + |b|^2 - 2ab`` expansion, whose
    rounding would decide at random the ties that copied training images produce. Memory is
    bounded; time grows as n m.

    Args:
        real, fake: features of each set.
        neighbours: k, at least 1: 5 in the density paper, 3 in the precision paper.

    Raises:
        ValueError: k below 1, no more than k samples in a set, different numbers of features, or
            a value that is not finite.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}; use 1 or more")
    real, fake = checked_pair(real, fake, minimum=neighbours + 1)
    real_radii, fake_radii = nearest_radii(real, neighbours), nearest_radii(fake, neighbours)
    precise = np.zeros(len(fake), dtype=bool)
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    containments = 0
    for block in row_blocks(len(real), len(fake)):
        distance = cdist(real[block], fake)
        radius = real_radii[block, None]
        inside = distance < radius
        containments += int(np.count_nonzero(inside))
        covered[block] = inside.any(axis=1)
        precise |= (distance <= radius).any(axis=0)
        recalled[block] = (distance <= fake_radii).any(axis=1)
    return ManifoldScores(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        density=containments / (neighbours * len(fake)),
        coverage=float(covered.mean()),
    )


@register("metric", "1904.06991", "2002.09797", name="manifold_scores")
@images_needed(fewest=lambda features, neighbours=5: neighbours + 1)
def scores_of_features(
    real_features: Float[np.ndarray, "real feature"],
    features: Float[np.ndarray, "image feature"],
    *,
    neighbours: int = 5,
) -> dict[str, float]:
    """Return precision, recall, density and coverage by name; see `manifold_scores`."""
    return manifold_scores(real_features, features, neighbours=neighbours)._asdict()
