"""Frechet distance between Gaussians fitted to features (Heusel et al., arXiv 1706.08500, eq. 6).

The distance of two finite samples of one distribution is not 0; `frechet_bias` says what it is.
Compare only rows with equal N, or what `frechet_infinity` extrapolates.
"""

import contextlib
import functools
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .feature_sets import checked, row_blocks

Features = Float[np.ndarray, "sample feature"]


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
        """Return the moments of both sets together, of batches, devices or hosts alike.

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


def moments(features: Features) -> Moments:
    """Return the moments of one batch of features, in float64.

    Features are converted and centred some rows at a time: beside them and the result it takes
    two blocks of memory.

    Raises:
        ValueError: not a matrix, empty, or a value that is not finite.
    """
    features = checked(features, "features", dtype=None)
    # By a dot product with ones: numpy's own mean of float32 adds up in float32.
    total = sum(features[block].astype(np.float64).sum(axis=0) for block in _blocks(features))
    mean = total / len(features)
    scatter = np.zeros((features.shape[1],) * 2)
    for block in _blocks(features):
        deviation = features[block] - mean
        scatter += deviation.T @ deviation
    return Moments(len(features), mean, scatter)


def moments_of_batches(batches: Iterable[Features]) -> Moments:
    """Return the moments of all batches together without holding more than one of them.

    Raises:
        ValueError: no batch at all, or as `moments`.
    """
    parts = map(moments, batches)
    first = next(parts, None)
    if first is None:
        raise ValueError("no batch of features was given: the data or the sample folder is empty")
    return functools.reduce(Moments.merge, parts, first)


def fitted(features: Features | Moments | Gaussian) -> Moments | Gaussian:
    """Return the moments of features; moments as they are."""
    return features if isinstance(features, Moments | Gaussian) else moments(features)


def frechet_distance(
    real: Features | Moments | Gaussian, fake: Features | Moments | Gaussian
) -> float:
    """Return ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``.

    With ``S = L L^T`` for either set, the eigenvalues of ``S1 S2`` are those of the symmetric
    ``(L1^T L2) (L1^T L2)^T``, real and non-negative where ``S1 S2`` itself is nearly singular. L is
    the Cholesky factor; of a singular covariance it is made of the eigenvectors that it has. A set
    with no more samples than features has a singular covariance; the distance then says little and
    a `UserWarning` is issued, with what it would be of a perfect generator.

    Args:
        real, fake: features of each set, or their moments from `moments` or
            `moments_of_batches`, or a Gaussian.

    Raises:
        ValueError: different numbers of features, or fewer than 2 samples.
    """
    real, fake = fitted(real), fitted(fake)
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
                f"its covariance is singular, and samples of the real set's own distribution would "
                f"be at some {_own_distance(real, fake):.3g}; use more than {features} samples",
                stacklevel=2,
            )
    product = _factor(real).T @ _factor(fake)
    if product.shape[0] > product.shape[1]:
        product = product.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(product @ product.T), 0)).sum()
    spread = np.trace(real.covariance) + np.trace(fake.covariance) - 2 * overlap
    # Rounding can leave a tiny negative number for equal sets; the distance has none.
    return max(0.0, float(np.sum((real.mean - fake.mean) ** 2) + spread))


@contextlib.contextmanager
def singular_unsaid() -> Iterator[None]:
    """Leave out the warning of few samples, where values of equally few are compared."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*covariance is singular")
        yield


def frechet_bias(real: Moments | Gaussian, count: int) -> float:
    """Return the distance expected of ``count`` samples of the real set's own distribution.

    To leading order in 1/N the mean contributes ``tr(S) (1/N + 1/M)``. A symmetric change H of S
    moves the covariance by ``sum_ij H_ij^2 / (2 (l_i + l_j))`` in the eigenbasis of S, l its
    eigenvalues, and those of Wishart matrices have ``E H_ij^2 = l_i l_j (1 + [i = j])
    (1/(N-1) + 1/(M-1))``, so that ``sum_ij l_i l_j (1 + [i = j]) / (2 (l_i + l_j))`` times the last
    bracket is added. A unit normal in d dimensions gives ``2 d/N + d (d+1)/(2 N)`` for N = M. It
    holds for Gaussian features and N well above d. At N = d it is still within 1 % for M = d and
    15 % too low for an infinite M; far below d it is too large.

    Args:
        real: moments of the real set; M is their count, infinite for a Gaussian.
        count: N, 2 or more.

    Raises:
        ValueError: fewer than 2 samples in either set.
    """
    known = [count, real.count] if isinstance(real, Moments) else [count]
    if min(known) < 2:
        raise ValueError(f"a covariance needs 2 or more samples, not {min(known)}")
    values = np.maximum(np.linalg.eigvalsh(real.covariance), 0)
    values = values[values > 0]
    # A pair of equal indices counts twice: l l / (2 l) once more, l / 2.
    pairs = values.sum() / 2
    for block in row_blocks(len(values), len(values)):
        part = values[block, None]
        pairs += np.sum(part * values / (part + values))
    mean = values.sum() * sum(1 / n for n in known)
    return float(mean + pairs / 2 * sum(1 / (n - 1) for n in known))


class FrechetInfinity(NamedTuple):
    """The distance at infinitely many samples.

    Attributes:
        distance: the intercept at 1/N = 0.
        standard_error: of the fit.
    """

    distance: float
    standard_error: float


def frechet_infinity(
    real: Features | Moments | Gaussian,
    fake: Features,
    *,
    points: int = 15,
    fewest: int = 5000,
    seed: int = 0,
) -> FrechetInfinity:
    """Return the distance at 1/N = 0 of a line fitted to distances of N samples (arXiv 1911.07023).

    Chong & Forsyth, section 3.1, with random subsets of evenly spaced sizes, as in dgm-eval. The
    distances are of overlapping subsets, so that the error of the fit is too small, not too large.

    Args:
        real: as `frechet_distance` takes it.
        fake: features of the samples.
        points: subsets, 3 or more.
        fewest: samples of the smallest; the largest is all of them.
        seed: of the drawing.

    Raises:
        ValueError: not more samples than ``fewest``, fewer than 3 points, or as
            `frechet_distance`.
    """
    fake = checked(fake, "fake", minimum=max(2, fewest) + 1, dtype=None)
    if points < 3 or fewest < 2:
        raise ValueError(
            f"points is {points} and fewest is {fewest}: a line with an error needs 3 points or "
            f"more, of 2 samples or more"
        )
    generator, real = np.random.default_rng(seed), fitted(real)
    sizes = np.linspace(fewest, len(fake), points).astype(int)
    with singular_unsaid():
        distances = [
            frechet_distance(real, moments(fake[generator.choice(len(fake), n, replace=False)]))
            for n in sizes
        ]
    design = np.stack([np.ones(points), 1 / sizes], axis=1)
    found, *_ = np.linalg.lstsq(design, np.array(distances), rcond=None)
    left = np.sum((design @ found - distances) ** 2) / (points - 2)
    error = np.sqrt(left * np.linalg.inv(design.T @ design)[0, 0])
    return FrechetInfinity(float(found[0]), float(error))


def _own_distance(real: Moments | Gaussian, fake: Moments | Gaussian) -> float:
    known = [part.count for part in (real, fake) if isinstance(part, Moments)]
    return frechet_bias(real, known[-1])


def _blocks(features: Features) -> Iterable[slice]:
    return row_blocks(*features.shape)


def _factor(part: Moments | Gaussian) -> Float[np.ndarray, "feature rank"]:
    """Return L of ``L L^T``, the covariance."""
    covariance = part.covariance
    if isinstance(part, Gaussian) or part.count > len(part.mean):
        try:
            return np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            pass  # singular, or negative by rounding
    values, vectors = np.linalg.eigh(covariance)
    # What lies below the rounding of the largest is no direction of the set.
    held = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, held] * np.sqrt(values[held])


def _same_features(a: Moments | Gaussian, b: Moments | Gaussian) -> None:
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"one set has {len(a.mean)} features and the other {len(b.mean)}: compute both with "
            f"the same network"
        )
