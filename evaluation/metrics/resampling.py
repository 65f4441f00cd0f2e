"""What of a Frechet distance is the histogram of classes (Kynkaanniemi et al., arXiv 2203.06026).

Section 4 of the paper draws generated images anew, with weights under which a classifier's top-N
classes are as frequent among them as among the real ones: no image changes, and the distance falls
by what the histogram alone is worth. A gain that vanishes once both sets are so weighted was one of
the histogram.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .feature_sets import checked, row_blocks
from .frechet import Features, Gaussian, Moments, fitted, frechet_distance

# Ranks that are counted of real sets.
RANKS = 10
# Steps of the scaling, and how close to the histogram ends it.
STEPS, CLOSE = 2000, 1e-10


class ResampledDistance(NamedTuple):
    """A Frechet distance under weights that match class histograms.

    Attributes:
        distance: of the weighted set.
        effective_share: of the samples, ``1 / (n sum w^2)``: how many equal ones are worth as
            much. The distance has the bias of so few.
        matched: share of the real histogram that there are generated images for.
    """

    distance: float
    effective_share: float
    matched: float


def class_ranks(
    probabilities: Float[np.ndarray, "sample class"], ranks: int = RANKS
) -> Int[np.ndarray, "rank class"]:
    """Return how many samples have a class as their most probable one, second one, ...

    Counts of several batches add up. The first N rows together are the top-N histogram.

    Raises:
        ValueError: not a matrix, or a value that is not finite.
    """
    probabilities = checked(probabilities, "probabilities", dtype=None)
    classes = probabilities.shape[1]
    order = _top(probabilities, min(ranks, classes))
    return np.stack([np.bincount(one, minlength=classes) for one in order.T])


def matching_weights(
    probabilities: Float[np.ndarray, "sample class"],
    real_ranks: Int[np.ndarray, "rank class"],
    *,
    top: int = 1,
) -> Float[np.ndarray, " sample"]:
    """Return weights under which top-N classes are as frequent as among real images.

    They sum to 1 and are the nearest to equal ones in relative entropy: the product of a factor
    for each of an image's top-N classes, found by generalised iterative scaling (Darroch &
    Ratcliff 1972). For N = 1 they are the quotient of both histograms.

    Args:
        probabilities: of the generated images.
        real_ranks: of the real ones, as `class_ranks` counts them.
        top: N.

    Raises:
        ValueError: other classes, more ranks than were counted, or no image of any real class.
    """
    probabilities = checked(probabilities, "probabilities", dtype=None)
    real_ranks = np.asarray(real_ranks)
    if real_ranks.shape[1:] != probabilities.shape[1:]:
        raise ValueError(
            f"the real set was sorted into {real_ranks.shape[-1]} classes and the images into "
            f"{probabilities.shape[1]}: sort both by the same classifier"
        )
    if not 1 <= top <= len(real_ranks):
        raise ValueError(f"top is {top}; {len(real_ranks)} ranks of the real set were counted")
    chosen, classes = _top(probabilities, top), probabilities.shape[1]
    target = real_ranks[:top].sum(axis=0) / real_ranks[:top].sum()
    # A class that no image has cannot be matched, and one that no real image has gets no weight.
    there = np.bincount(chosen.ravel(), minlength=classes) > 0
    target = np.where(there, target, 0.0)
    usable = (target[chosen] > 0).all(axis=1)
    if not usable.any():
        raise ValueError("no image has classes of real images alone: compare with another set")
    logs, weights = np.zeros(classes), usable / usable.sum()
    target = target / target.sum()
    for _ in range(STEPS):
        found = np.bincount(chosen.ravel(), np.repeat(weights, top), minlength=classes) / top
        known = (found > 0) & (target > 0)
        if np.abs(found - target)[known].max(initial=0) < CLOSE:
            break
        logs[known] += np.log(target[known] / found[known]) / top
        sums = np.where(usable, logs[chosen].sum(axis=1), -np.inf)
        weights = np.exp(sums - sums.max())
        weights /= weights.sum()
    return weights


def weighted_gaussian(features: Features, weights: Float[np.ndarray, " sample"]) -> Gaussian:
    """Return mean and covariance of weighted samples; of equal weights, those of `moments`.

    The covariance is unbiased for weights that say how reliable a sample is: divided by
    ``1 - sum w^2``.

    Raises:
        ValueError: not a matrix, a value that is not finite, or one sample with all the weight.
    """
    features = checked(features, "features", minimum=2, dtype=None)
    weights = np.asarray(weights, np.float64) / np.sum(weights)
    left = 1 - np.sum(weights**2)
    if left < 1e-12:
        raise ValueError("one sample has all the weight, and a covariance needs 2: add samples")
    blocks = list(row_blocks(*features.shape))
    mean = sum(weights[block] @ features[block].astype(np.float64) for block in blocks)
    scatter = np.zeros((features.shape[1],) * 2)
    for block in blocks:
        deviation = (features[block] - mean) * np.sqrt(weights[block, None])
        scatter += deviation.T @ deviation
    return Gaussian(mean, scatter / left)


def resampled_frechet_distance(
    real: Features | Moments | Gaussian,
    fake: Features,
    *,
    real_ranks: Int[np.ndarray, "rank class"],
    probabilities: Float[np.ndarray, "sample class"],
    top: int = 1,
) -> ResampledDistance:
    """Return the Frechet distance of ``fake`` weighted to the real set's histogram of classes.

    Args:
        real, fake: as `frechet_distance` takes them.
        real_ranks, probabilities, top: as `matching_weights` takes them.

    Raises:
        ValueError: as both, or another number of probabilities than of fakes.
    """
    fake = checked(fake, "fake", minimum=2, dtype=None)
    if len(probabilities) != len(fake):
        raise ValueError(f"{len(probabilities)} probabilities cannot go with {len(fake)} fakes")
    weights = matching_weights(probabilities, real_ranks, top=top)
    histogram = np.asarray(real_ranks)[:top].sum(axis=0)
    there = np.bincount(
        _top(np.asarray(probabilities), top)[weights > 0].ravel(), minlength=len(histogram)
    )
    return ResampledDistance(
        frechet_distance(fitted(real), weighted_gaussian(fake, weights)),
        float(1 / np.sum(weights**2) / len(weights)),
        float(histogram[there > 0].sum() / histogram.sum()),
    )


def _top(probabilities, top: int) -> Int[np.ndarray, "sample top"]:
    """Return the most probable classes of each sample, the first one first; stable in ties."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
