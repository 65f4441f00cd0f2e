"""What metrics ask of their input, and how they walk through it in blocks."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Float

F = TypeVar("F", bound=Callable)
# Numbers in one block of a pairwise matrix; 2**23 in float64 are 64 MiB.
BLOCK_NUMBERS = 2**23


def checked(
    features, name: str, minimum: int = 1, dtype: type | None = np.float64
) -> Float[np.ndarray, "sample feature"]:
    """Return ``features`` as a matrix.

    Args:
        features: [sample, feature], any real type.
        name: what the features are, for the message.
        minimum: fewest samples the metric can do with.
        dtype: of the matrix; None for floating-point numbers as they are, in no memory of their
            own.

    Raises:
        ValueError: not a matrix, too few samples, or a value that is not finite.
    """
    features = np.asarray(features, dtype)
    if features.dtype.kind != "f":
        features = features.astype(np.float64)
    if features.ndim != 2:
        raise ValueError(f"{name} has shape {features.shape}; give one row of features per sample")
    if len(features) < minimum:
        raise ValueError(
            f"{name} has {len(features)} samples and this metric needs at least {minimum}: "
            f"add samples"
        )
    bad = np.concatenate(
        [
            block.start + np.flatnonzero(~np.isfinite(features[block]).all(axis=1))
            for block in row_blocks(*features.shape)
        ]
    )
    if bad.size:
        raise ValueError(
            f"{name} has values that are not finite in {bad.size} of {len(features)} samples, the "
            f"first at index {bad[0]}: look at that image"
        )
    return features


def checked_pair(real, fake, minimum: int = 1, dtype: type | None = np.float64):
    """Return both sets as matrices with equally many features.

    Raises:
        ValueError: as `checked`, or different numbers of features.
    """
    real, fake = checked(real, "real", minimum, dtype), checked(fake, "fake", minimum, dtype)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} features and fake has {fake.shape[1]}: compute both with "
            f"the same network"
        )
    return real, fake


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices over ``rows`` so that no [block, columns] matrix exceeds the memory limit."""
    step = max(1, BLOCK_NUMBERS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def images_needed(
    fewest: Callable[..., int] | None = None,
    advised: Callable[..., int] | None = None,
    *,
    mean: bool = False,
) -> Callable[[F], F]:
    """Say how many images a metric needs, so that too few are refused before they are made.

    Args:
        fewest: with fewer it cannot be computed; a function of the number of features and, by
            name, of the metric's own settings.
        advised: the same, for what it says little with fewer.
        mean: whether it is a mean over images, which is taken some images at a time, so that they
            are never all in memory.
    """

    def add(metric: F) -> F:
        metric.__dict__.update(fewest=fewest, advised=advised, mean=mean)
        return metric

    return add
