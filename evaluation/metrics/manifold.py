"""Precision, recall, density and coverage from nearest-neighbour balls, and what goes with them.

Precision and recall: Kynkaanniemi et al., arXiv 1904.06991, eq. 1-3. Density and coverage: Naeem
et al., arXiv 2002.09797, eq. 3-4. The first pair counts the surface of a ball (<=), the second
does not (<), each as its paper defines it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .feature_sets import checked_pair
from .neighbours import Pair, nearest_radii, within


class PrecisionRecall(NamedTuple):
    """Fidelity and variety of a generated set.

    Attributes:
        precision: share of fakes inside some real sample's ball.
        recall: share of reals inside some fake sample's ball.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Fidelity and variety of a generated set, both from balls around real samples.

    Attributes:
        density: real balls around a fake, on average, over k; 1 expected for equal distributions,
            and no upper bound of 1.
        coverage: share of reals with a fake inside their ball; for equal distributions and sizes
            N expected ``1 - prod_(j=1..k) (N - j) / (2N - j)``, about ``1 - 2^-k``.
    """

    density: float
    coverage: float


def precision_recall(
    real: Float[np.ndarray, "n feature"], fake: Float[np.ndarray, "m feature"], *, k: int = 3
) -> PrecisionRecall:
    """Return precision and recall of ``fake`` with respect to ``real``.

    Exact, ties included (`neighbours`). Memory beyond the features is one float32 copy of them and
    a few blocks; time grows as n^2 + m^2 + n m.

    Args:
        real, fake: features of each set.
        k: a ball reaches to its centre's k-th nearest neighbour; 3 in the paper.

    Raises:
        ValueError: k below 1, no more than k samples in a set, different numbers of features, or
            a value that is not finite.
    """
    real, fake = _checked(real, fake, k)
    real_radii, fake_radii = nearest_radii(real, k), nearest_radii(fake, k)
    precise, recalled = np.zeros(len(fake), dtype=bool), np.zeros(len(real), dtype=bool)
    pair = Pair(real, fake)
    for block, rough in pair.blocks():
        precise |= within(pair, block, rough, real_radii[block, None], True).any(axis=0)
        recalled[block] = within(pair, block, rough, fake_radii, True).any(axis=1)
    return PrecisionRecall(float(precise.mean()), float(recalled.mean()))


def density_coverage(
    real: Float[np.ndarray, "n feature"], fake: Float[np.ndarray, "m feature"], *, k: int = 3
) -> DensityCoverage:
    """Return density and coverage of ``fake`` with respect to ``real``.

    Args:
        real, fake: features of each set.
        k: a ball reaches to its centre's k-th nearest neighbour; 5 in the paper.

    Raises:
        ValueError: as `precision_recall`.
    """
    real, fake = _checked(real, fake, k)
    radii, covered, containments = nearest_radii(real, k), np.zeros(len(real), dtype=bool), 0
    pair = Pair(real, fake)
    for block, rough in pair.blocks():
        inside = within(pair, block, rough, radii[block, None], False)
        containments += int(np.count_nonzero(inside))
        covered[block] = inside.any(axis=1)
    return DensityCoverage(containments / (k * len(fake)), float(covered.mean()))


def realism(
    real: Float[np.ndarray, "n feature"], fake: Float[np.ndarray, "m feature"], *, k: int = 3
) -> Float[np.ndarray, " m"]:
    """Return how realistic each fake is, arXiv 1904.06991, eq. 4: above 1 inside the manifold.

    The largest ``radius / distance`` over those real balls whose radius is at most the median;
    infinite for a copy of a real sample.

    Args:
        real, fake: features of each set.
        k: as in `precision_recall`.

    Raises:
        ValueError: as `precision_recall`.
    """
    real, fake = _checked(real, fake, k)
    radii = nearest_radii(real, k)
    small = radii <= np.median(radii)
    pair, scores = Pair(fake, real[small]), np.empty(len(fake))
    for block, _ in pair.blocks():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = radii[small] / pair.whole(block)
        # A ball without a radius holds its own centre alone.
        scores[block] = np.where(np.isnan(ratios), np.inf, ratios).max(axis=1)
    return scores


def authenticity(
    real: Float[np.ndarray, "n feature"], fake: Float[np.ndarray, "m feature"]
) -> float:
    """Return AuthPct (arXiv 2102.08921, section 5): the share of fakes that are no copies.

    A fake is authentic where it is further from the training sample nearest to it than that one is
    from its own nearest neighbour.

    Args:
        real: features of the training set.
        fake: features of the generated one.

    Raises:
        ValueError: fewer than 2 real samples, different numbers of features, or a value that is
            not finite.
    """
    real, fake = _checked(real, fake, 1)
    radii, authentic = nearest_radii(real, 1), np.empty(len(fake), dtype=bool)
    pair = Pair(fake, real)
    for block, _ in pair.blocks():
        distances = pair.whole(block)
        nearest = np.argmin(distances, axis=1)
        authentic[block] = radii[nearest] < distances[np.arange(len(distances)), nearest]
    return float(authentic.mean())


def _checked(real, fake, k: int):
    if k < 1:
        raise ValueError(f"k is {k}; use 1 or more")
    return checked_pair(real, fake, minimum=k + 1, dtype=None)
