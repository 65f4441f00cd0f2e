"""Frechet distance between Gaussians fitted to features (Heusel et al., arXiv 1706.08500, eq. 6).

The distance of two finite samples of one distribution is not 0: for N samples each of a standard
normal in d dimensions it is about ``2 d / N + d (d + 1) / (2 N)``. Compare only rows with equal N.
"""

import functools
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ...core.registry import register
from .feature_sets import checked, images_needed


class Gaussian(NamedTuple):
    """A fitted Gaussian of which no count is known, as published statistics are."""

    mean: Float[np.ndarray, " feature"]
    covariance: Float[np.ndarray, "feature feature"]


class Moments(NamedTuple):
    """Count, mean and scatter of a feature set: all the distance needs, mergeable across batches.

    Fields are plain numbers and arrays: ``np.savez(path, **moments._asdict())`` stores them and
    ``Moments(**np.load(path))`` reads them back.
    """

    count: int
    mean: Float[np.ndarray, " feature"]
    scatter: Float[np.ndarray, "feature feature"]  # sum of outer products of deviations

    @property
    def covariance(self) -> Float[np.ndarray, "feature feature"]:
        """Unbiased covariance, ``scatter / (count - 1)``."""
        return self.scatter / (self.count - 1)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together.

        The pairwise update (Chan, Golub & LeVeque 1979) works on deviations: sums of squares
        would lose every digit of a small variance around a large mean.

        Raises:
            ValueError: different numbers of features.
        """
        _same_features(self, other)
        count = self.count + other.count
        offset = other.mean - self.mean
        mean = self.mean + offset * (other.count / count)
        between = np.outer(offset, offset) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)


def moments(features: Float[np.ndarray, "sample feature"]) -> Moments:
    """Return the moments of one batch of features, in float64.

    Raises:
        ValueError: not a matrix, empty, or a value that is not finite.
    """
    features = checked(features, "features")
    mean = features.mean(axis=0)
    deviation = features - mean
    return Moments(len(features), mean, deviation.T @ deviation)


def moments_of_batches(batches: Iterable[Float[np.ndarray, "sample feature"]]) -> Moments:
    """Return the moments of all batches together without holding more than one of them.

    Raises:
        ValueError: no batch at all, or as `moments`.
    """
    parts = map(moments, batches)
    first = next(parts, None)
    if first is None:
        raise ValueError("no batch of features was given: the data or the sample folder is empty")
    return functools.reduce(Moments.merge, parts, first)


def frechet_distance(real: Moments | Gaussian, fake: Moments | Gaussian) -> float:
    """Return ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``.

    The trace of the root is taken from the eigenvalues of the symmetric ``S1^(1/2) S2 S1^(1/2)``,
    which stay real and non-negative where ``S1 S2`` itself is nearly singular. A set with no more
    samples than features has a singular covariance; the distance then says little and a
    `UserWarning` is issued.

    Args:
        real, fake: moments of each set, from `moments` or `moments_of_batches`, or a Gaussian.

    Raises:
        ValueError: different numbers of features, or fewer than 2 samples.
    """
    _same_features(real, fake)
    for name, part in (("real", real), ("fake", fake)):
        features = len(part.mean)
        if isinstance(part, Gaussian):
            continue
        if part.count < 2:
            raise ValueError(f"{name} has {part.count} sample: a covariance needs 2 or more")
        if part.count <= features:
            warnings.warn(
                f"Frechet distance: {name} has {part.count} samples for {features} features, so "
                f"its covariance is singular; use more than {features} samples",
                stacklevel=2,
            )
    values, vectors = np.linalg.eigh(real.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ fake.covariance @ root)
    overlap = np.sqrt(np.maximum(product, 0)).sum()
    spread = np.trace(real.covariance) + np.trace(fake.covariance) - 2 * overlap
    # Rounding can leave a tiny negative number for equal sets; the distance has none.
    return max(0.0, float(np.sum((real.mean - fake.mean) ** 2) + spread))


@register("metric", "1706.08500", name="frechet_distance")
@images_needed(fewest=lambda features: 2, advised=lambda features: features + 1)
def distance_of_features(
    real_moments: Moments | Gaussian, features: Float[np.ndarray, "image feature"]
) -> float:
    """Return the Frechet distance of a set of features from a real set's moments.

    That few images say little is said before they are made, and not here again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return frechet_distance(real_moments, moments(features))


def _same_features(a: Moments | Gaussian, b: Moments | Gaussian) -> None:
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"one set has {len(a.mean)} features and the other {len(b.mean)}: compute both with "
            f"the same network"
        )
