"""Metrics on features, class probabilities and pixels: NumPy and SciPy in float64, on the host."""

from .appearance import contrast, saturation, white
from .frechet import Moments, frechet_distance, moments, moments_of_batches
from .kernel import KernelDistance, kernel_distance, kernel_distance_over_subsets
from .manifold import ManifoldScores, manifold_scores
from .scores import inception_score, vendi_score

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
