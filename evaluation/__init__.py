"""Metrics on features, class probabilities and pixels: NumPy and SciPy in float64, on the host."""

from .extractors import Extracted, FeatureFunction
from .metrics.appearance import contrast, saturation, white
from .metrics.frechet import Gaussian, Moments, frechet_distance, moments, moments_of_batches
from .metrics.kernel import KernelDistance, kernel_distance, kernel_distance_over_subsets
from .metrics.manifold import ManifoldScores, manifold_scores
from .metrics.named import Measured, Metric, choose, measure
from .metrics.scores import agreement, inception_score, vendi_score

__all__ = [
    "Extracted",
    "FeatureFunction",
    "Gaussian",
    "KernelDistance",
    "ManifoldScores",
    "Measured",
    "Metric",
    "Moments",
    "agreement",
    "choose",
    "contrast",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "kernel_distance_over_subsets",
    "manifold_scores",
    "measure",
    "moments",
    "moments_of_batches",
    "saturation",
    "vendi_score",
    "white",
]
