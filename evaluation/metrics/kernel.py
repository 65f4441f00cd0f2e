"""Kernel distance: unbiased squared MMD of a cubic kernel (Binkowski et al., arXiv 1801.01401)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .feature_sets import checked_pair, row_blocks


class KernelDistance(NamedTuple):
    """Mean over random subsets, and the standard error of that mean."""

    mean: float
    standard_error: float


def _kernel_sum(a: Float[np.ndarray, "m feature"], b: Float[np.ndarray, "n feature"]) -> float:
    """Sum ``k(x, y) = (x.y / d + 1)^3`` over all pairs."""
    features = a.shape[1]
    return sum(
        float(np.sum((a[block] @ b.T / features + 1) ** 3)) for block in row_blocks(len(a), len(b))
    )


def _mean_off_diagonal(a: Float[np.ndarray, "m feature"]) -> float:
    own = float(np.sum((np.sum(a * a, axis=1) / a.shape[1] + 1) ** 3))
    return (_kernel_sum(a, a) - own) / (len(a) * (len(a) - 1))


def kernel_distance(
    real: Float[np.ndarray, "n feature"], fake: Float[np.ndarray, "m feature"]
) -> float:
    """Return the unbiased squared MMD of the two sets, arXiv 1801.01401, eq. 4.

    ``mean_(i != j) k(r_i, r_j) + mean_(i != j) k(f_i, f_j) - 2 mean_(i, j) k(r_i, f_j)``. Its
    expectation is 0 for equal distributions at any sample size, so single values may be negative.

    Raises:
        ValueError: fewer than 2 samples, different numbers of features, or a value that is not
            finite.
    """
    real, fake = checked_pair(real, fake, minimum=2)
    cross = _kernel_sum(real, fake) / (len(real) * len(fake))
    return _mean_off_diagonal(real) + _mean_off_diagonal(fake) - 2 * cross


def kernel_distance_over_subsets(
    real: Float[np.ndarray, "n feature"],
    fake: Float[np.ndarray, "m feature"],
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Return the kernel distance as published: the mean over random subsets of equal size.

    Args:
        real, fake: features of each set.
        subsets: how many subsets, 2 or more.
        size: samples in a subset, drawn without replacement from each set.
        seed: of the drawing.

    Raises:
        ValueError: a set smaller than ``size``, fewer than 2 subsets, or as `kernel_distance`.
    """
    if subsets < 2:
        raise ValueError(f"subsets is {subsets}; a standard error needs 2 or more")
    real, fake = checked_pair(real, fake, minimum=size)
    generator = np.random.default_rng(seed)
    distances = [
        kernel_distance(
            generator.choice(real, size, replace=False), generator.choice(fake, size, replace=False)
        )
        for _ in range(subsets)
    ]
    error = np.std(distances, ddof=1) / np.sqrt(subsets)
    return KernelDistance(float(np.mean(distances)), float(error))
