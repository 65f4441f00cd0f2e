"""Metrics on features, class probabilities and pixels: NumPy and SciPy in float64, on the host."""

from .metrics.appearance import contrast, saturation, white
from .metrics.frechet import Moments, frechet_distance, moments, moments_of_batches
from .metrics.kernel import KernelDistance, kernel_distance, kernel_distance_over_subsets
from .metrics.manifold import ManifoldScores, manifold_scores
from .metrics.scores import inception_score, vendi_score

__all__ = [
    "KernelDistance",
    "ManifoldScores",
    "Moments",
    "contrast",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "kernel_distance_over_subsets",
    "manifold_scores",
    "moments",
    "moments_of_batches",
    "saturation",
    "vendi_score",
    "white",
]
