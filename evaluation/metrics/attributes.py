"""SaD and PaD: how far attributes, and pairs of them, are from the real set's (arXiv 2310.17261).

Kim et al. score attributes by CLIP; any scorer does, as both take ``[image, attribute]`` scores.
"""

import itertools

import numpy as np
from jaxtyping import Float
from scipy.signal import fftconvolve
from scipy.special import xlogy

from .feature_sets import checked_pair

# Cells of a grid: a density of one attribute, and of a pair along each of the two.
CELLS, PAIR_CELLS = 1024, 128
# Added to the share of each cell, as in the paper's code.
FLOOR = 1e-10


def single_attribute_divergence(
    real: Float[np.ndarray, "n attribute"],
    fake: Float[np.ndarray, "m attribute"],
    *,
    symmetric: bool = False,
) -> float:
    """Return SaD: ``KL(real || fake)`` of the density of an attribute's scores, mean over them.

    Densities are Gaussian kernel estimates with Scott's bandwidth (arXiv 2310.17261, section 4.2),
    on a grid that spans the scores of both.

    Args:
        real, fake: a score of each attribute for each image.
        symmetric: take the mean of both directions.

    Raises:
        ValueError: fewer than 2 images, other attributes, not a matrix, an attribute whose scores
            are all equal, or a value that is not finite.
    """
    real, fake = checked_pair(real, fake, minimum=2)
    places = [(one,) for one in range(real.shape[1])]
    return _mean_divergence(real, fake, places, CELLS, symmetric)


def paired_attribute_divergence(
    real: Float[np.ndarray, "n attribute"],
    fake: Float[np.ndarray, "m attribute"],
    *,
    symmetric: bool = False,
) -> float:
    """Return PaD: `single_attribute_divergence` of two attributes at once, mean over their pairs.

    Raises:
        ValueError: as `single_attribute_divergence`; fewer than 2 attributes, or two whose scores
            lie on a line.
    """
    real, fake = checked_pair(real, fake, minimum=3)
    if real.shape[1] < 2:
        raise ValueError("there is one attribute, and pairs are of two: give scores of more")
    places = list(itertools.combinations(range(real.shape[1]), 2))
    return _mean_divergence(real, fake, places, PAIR_CELLS, symmetric)


def _mean_divergence(real, fake, places, cells: int, symmetric: bool) -> float:
    found = []
    for place in places:
        one, other = real[:, place], fake[:, place]
        kernels = [_bandwidth(part, place) for part in (one, other)]
        width = np.sqrt(np.max([np.diag(kernel) for kernel in kernels], axis=0))
        both = np.concatenate([one, other])
        low, high = both.min(axis=0) - 5 * width, both.max(axis=0) + 5 * width
        edges = [np.linspace(a, b, cells + 1) for a, b in zip(low, high, strict=True)]
        p, q = (
            _density(part, kernel, edges)
            for part, kernel in zip((one, other), kernels, strict=True)
        )
        divergence = _divergence(p, q)
        found.append((divergence + _divergence(q, p)) / 2 if symmetric else divergence)
    return float(np.mean(found))


def _bandwidth(scores, place) -> Float[np.ndarray, "axis axis"]:
    """Return the covariance of the kernel by Scott's rule."""
    count, axes = scores.shape
    covariance = np.atleast_2d(np.cov(scores, rowvar=False))
    if np.linalg.eigvalsh(covariance)[0] <= 1e-12 * np.trace(covariance):
        names = " and ".join(map(str, place))
        raise ValueError(
            f"scores of attribute {names} lie in one place or on one line, which have no density: "
            f"leave it out"
        )
    return covariance * count ** (-2 / (axes + 4))


def _density(scores, kernel, edges) -> np.ndarray:
    """Return the share of each cell."""
    counts, _ = np.histogramdd(scores, edges)
    steps = [edge[1] - edge[0] for edge in edges]
    # A kernel of twice the grid, so that its middle reaches from any cell to any other.
    offsets = np.meshgrid(
        *[
            step * np.arange(2 - len(edge), len(edge) - 1)
            for step, edge in zip(steps, edges, strict=True)
        ],
        indexing="ij",
    )
    points = np.stack(offsets, axis=-1)
    weights = np.exp(-0.5 * np.einsum("...i,ij,...j", points, np.linalg.inv(kernel), points))
    shares = np.maximum(fftconvolve(counts, weights, mode="same"), 0)
    return shares / shares.sum()


def _divergence(p, q) -> float:
    p, q = p + FLOOR, q + FLOOR
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(xlogy(p, p) - xlogy(p, q)))
