"""Scores of one set alone: Inception score, Vendi score, and agreement with the labels."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import xlogy

from ...core.registry import register
from .feature_sets import checked, images_needed


@register("metric", "1606.03498")
@images_needed(fewest=lambda features, splits=1, seed=0: splits)
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


@register("metric", "2210.02410")
def vendi_score(features: Float[np.ndarray, "sample feature"]) -> float:
    """Return ``exp(-sum_i w_i ln w_i)``, w the eigenvalues of the cosine similarities over n.

    The effective number of different samples: 1 when all point the same way, n when all are
    orthogonal. Friedman & Dieng, arXiv 2210.02410, definition 3.1.

    Raises:
        ValueError: not a matrix, a value that is not finite, or a sample whose features are all 0.
    """
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
    weights = np.maximum(np.linalg.eigvalsh(gram / len(unit)), 0)
    return float(np.exp(-xlogy(weights, weights).sum()))


@register("metric")
def agreement(
    probabilities: Float[np.ndarray, "sample class"], labels: Int[np.ndarray, " sample"]
) -> float:
    """Return the share of samples in which a classifier sees the class that was asked for."""
    return float(np.mean(np.argmax(probabilities, axis=-1) == labels))
