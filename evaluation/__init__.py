"""Metrics on features, class probabilities and pixels: NumPy and SciPy in float64, on the host."""

from .denoising_errors import Classified, diffusion_classifier
from .extractors import Extracted, FeatureFunction
from .metrics import registered  # noqa: F401  (registers them by name)
from .metrics.appearance import contrast, saturation, white
from .metrics.attributes import paired_attribute_divergence, single_attribute_divergence
from .metrics.feature_sets import images_needed
from .metrics.frechet import (
    FrechetInfinity,
    Gaussian,
    Moments,
    frechet_bias,
    frechet_distance,
    frechet_infinity,
    moments,
    moments_of_batches,
)
from .metrics.kernel import KernelDistance, kernel_distance, kernel_distance_over_subsets
from .metrics.manifold import (
    DensityCoverage,
    PrecisionRecall,
    authenticity,
    density_coverage,
    precision_recall,
    realism,
)
from .metrics.named import Batch, Measured, Metric, choose, measure
from .metrics.resampling import (
    ResampledDistance,
    class_ranks,
    matching_weights,
    resampled_frechet_distance,
    weighted_gaussian,
)
from .metrics.scores import agreement, class_diversity, inception_score, vendi_score
from .seeds import Spread, spread

__all__ = [
    "Batch",
    "Classified",
    "DensityCoverage",
    "Extracted",
    "FeatureFunction",
    "FrechetInfinity",
    "Gaussian",
    "KernelDistance",
    "Measured",
    "Metric",
    "Moments",
    "PrecisionRecall",
    "ResampledDistance",
    "Spread",
    "agreement",
    "authenticity",
    "choose",
    "class_diversity",
    "class_ranks",
    "contrast",
    "density_coverage",
    "diffusion_classifier",
    "frechet_bias",
    "frechet_distance",
    "frechet_infinity",
    "images_needed",
    "inception_score",
    "kernel_distance",
    "kernel_distance_over_subsets",
    "matching_weights",
    "measure",
    "moments",
    "moments_of_batches",
    "paired_attribute_divergence",
    "precision_recall",
    "realism",
    "resampled_frechet_distance",
    "saturation",
    "single_attribute_divergence",
    "spread",
    "vendi_score",
    "weighted_gaussian",
    "white",
]
