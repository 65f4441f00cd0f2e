"""Scores of one set alone: Inception score, Vendi score, agreement with labels, diversity."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist
from scipy.special import xlogy

from .feature_sets import checked, row_blocks


def inception_score(
    probabilities: Float[np.ndarray, "sample class"], *, splits: int = 1, seed: int = 0
) -> float:
    """Return ``exp(mean_x KL(p(y|x) || p(y)))``, between 1 and the number of classes.

    Salimans et al., arXiv 1606.03498, section 4. With several splits, the mean of their scores;
    samples are shuffled first, as images sampled class after class would make splits of one class.

    Args:
        probabilities: a classifier's softmax output for every image.
        splits: equal parts, each scored with its own marginal p(y).
        seed: of the shuffle.

    Raises:
        ValueError: rows that are not probabilities, or fewer samples than splits.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; use 1 or more")
    probabilities = checked(probabilities, "probabilities", minimum=splits)
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("each row of probabilities must be >= 0 and sum to 1: apply softmax first")
    if splits > 1:
        probabilities = np.random.default_rng(seed).permutation(probabilities)
    scores = []
    for part in np.array_split(probabilities, splits):
        marginal = part.mean(axis=0)
        # xlogy(0, 0) is 0: a class without probability adds nothing.
        divergence = xlogy(part, part).sum(axis=1).mean() - xlogy(marginal, marginal).sum()
        scores.append(np.exp(divergence))
    return float(np.mean(scores))


def vendi_score(features: Float[np.ndarray, "sample feature"], *, q: float = 1.0) -> float:
    """Return the effective number of different samples, the Hill number of order q.

    ``(sum_i w_i^q)^(1 / (1 - q))``, w the eigenvalues of the cosine similarities over n; at q = 1
    its limit ``exp(-sum_i w_i ln w_i)``. It is 1 when all samples point the same way and n when all
    are orthogonal. Friedman & Dieng, arXiv 2210.02410, definition 3.1, and arXiv 2310.12952,
    eq. 3: small orders count rare samples fully, large ones hardly.

    Args:
        features: of each sample; their lengths do not matter.
        q: 0 or more; 0 counts the eigenvalues that are not 0, infinity takes the largest alone.

    Raises:
        ValueError: not a matrix, a value that is not finite, a sample whose features are all 0, or
            an order below 0.
    """
    if not q >= 0:
        raise ValueError(f"q is {q}; use 0 or more, inf included")
    features = checked(features, "features")
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    if not norm.all():
        raise ValueError(
            f"the features of sample {int(np.argmin(norm))} are all 0, so it has no direction: "
            f"leave it out"
        )
    unit = features / norm
    # X X^T and X^T X share their non-zero eigenvalues; take the smaller.
    gram = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    weights = np.linalg.eigvalsh(gram / len(unit))
    # Below the rounding of the largest is 0, which orders below 1 would count.
    weights = weights[weights > weights[-1] * len(weights) * np.finfo(np.float64).eps]
    if q == 1:
        return float(np.exp(-xlogy(weights, weights).sum()))
    if q == np.inf:
        return float(1 / weights[-1])
    # The largest is taken out, whose power would vanish at a large order.
    share = np.sum((weights / weights[-1]) ** q)
    return float(np.exp((q * np.log(weights[-1]) + np.log(share)) / (1 - q)))


def agreement(
    probabilities: Float[np.ndarray, "sample class"], labels: Int[np.ndarray, " sample"]
) -> float:
    """Return the share of samples in which a classifier sees the class that was asked for.

    Raises:
        ValueError: another number of labels than of samples, or labels that are not among the
            classifier's classes.
    """
    probabilities = checked(probabilities, "probabilities", dtype=None)
    labels = _labels(labels, len(probabilities))
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()} and the classifier knows "
            f"{probabilities.shape[1]} classes: name a classifier of these classes"
        )
    return float(np.mean(np.argmax(probabilities, axis=-1) == labels))


def class_diversity(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"]
) -> float:
    """Return the mean distance between two samples of one class, mean over classes.

    Classes with a single sample have no pair and are left out.

    Args:
        features: of each sample.
        labels: the class that each was asked for.

    Raises:
        ValueError: another number of labels than of samples, no class with two samples, not a
            matrix, or a value that is not finite.
    """
    features = checked(features, "features")
    labels = _labels(labels, len(features))
    means = []
    for label in np.unique(labels):
        members = features[labels == label]
        if len(members) > 1:
            blocks = row_blocks(len(members), len(members))
            total = sum(cdist(members[block], members).sum() for block in blocks)
            means.append(total / (len(members) * (len(members) - 1)))
    if not means:
        raise ValueError("no class has two samples, between which there is a distance: add samples")
    return float(np.mean(means))


def _labels(labels, samples: int) -> Int[np.ndarray, " sample"]:
    labels = np.asarray(labels)
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}, and there are {samples} samples: "
            f"give one class, a whole number, for each"
        )
    return labels
