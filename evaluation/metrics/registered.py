"""The package's metrics as configs choose them: by name, of what was measured."""

import numpy as np
from jaxtyping import Float, Int

from ...core.registry import register
from . import appearance, frechet, kernel, manifold, resampling, scores
from .feature_sets import images_needed

Features = Float[np.ndarray, "image feature"]
Real = Float[np.ndarray, "real feature"]
Probabilities = Float[np.ndarray, "image class"]


@register("metric", "1706.08500")
@images_needed(fewest=lambda features: 2, advised=lambda features: features + 1)
def frechet_distance(
    real_moments: frechet.Moments | frechet.Gaussian, moments: frechet.Moments
) -> dict[str, float]:
    """Return the Frechet distance, and beside it what it is of as many images of the real set."""
    # That few images say little is said before they are made.
    with frechet.singular_unsaid():
        found = frechet.frechet_distance(real_moments, moments)
    bias = frechet.frechet_bias(real_moments, moments.count)
    return {"frechet_distance": found, "frechet_bias": bias}


@register("metric", "1911.07023")
@images_needed(fewest=lambda features, points=15, fewest=5000, seed=0: fewest + 1)
def frechet_infinity(
    real_moments: frechet.Moments | frechet.Gaussian,
    features: Features,
    *,
    points: int = 15,
    fewest: int = 5000,
    seed: int = 0,
) -> dict[str, float]:
    """Return the distance extrapolated to infinitely many images, and the error of the fit."""
    found = frechet.frechet_infinity(
        real_moments, features, points=points, fewest=fewest, seed=seed
    )
    return {"frechet_infinity": found.distance, "frechet_infinity_error": found.standard_error}


@register("metric", "2203.06026")
@images_needed(fewest=lambda features, top=1: 2, advised=lambda features, top=1: features + 1)
def resampled_frechet_distance(
    real_moments: frechet.Moments | frechet.Gaussian,
    real_ranks: Int[np.ndarray, "rank class"],
    features: Features,
    probabilities: Probabilities,
    *,
    top: int = 1,
) -> dict[str, float]:
    """Return the Frechet distance with class histograms matched; see `resampling`."""
    with frechet.singular_unsaid():
        found = resampling.resampled_frechet_distance(
            real_moments, features, real_ranks=real_ranks, probabilities=probabilities, top=top
        )
    return {
        "resampled_frechet_distance": found.distance,
        "resampled_effective_share": found.effective_share,
        "resampled_matched": found.matched,
    }


@register("metric", "1904.06991")
@images_needed(fewest=lambda features, k=3: k + 1)
def precision_recall(real_features: Real, features: Features, *, k: int = 3) -> dict[str, float]:
    """Return precision and recall by name."""
    return manifold.precision_recall(real_features, features, k=k)._asdict()


@register("metric", "2002.09797")
@images_needed(fewest=lambda features, k=3: k + 1)
def density_coverage(real_features: Real, features: Features, *, k: int = 3) -> dict[str, float]:
    """Return density and coverage by name."""
    return manifold.density_coverage(real_features, features, k=k)._asdict()


@register("metric", "2102.08921")
@images_needed(fewest=lambda features: 2)
def authenticity(real_features: Real, features: Features) -> float:
    """Return the share of images that are no copies of the real images that are kept."""
    return manifold.authenticity(real_features, features)


@register("metric", "1801.01401")
@images_needed(fewest=lambda features: 2)
def kernel_distance(real_features: Real, features: Features) -> float:
    """Return the kernel distance of all images at once."""
    return kernel.kernel_distance(real_features, features)


@register("metric", "1801.01401")
@images_needed(fewest=lambda features, subsets=100, size=1000, seed=0: size)
def kernel_distance_over_subsets(
    real_features: Real, features: Features, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Return the kernel distance as published, and its standard error."""
    found = kernel.kernel_distance_over_subsets(
        real_features, features, subsets=subsets, size=size, seed=seed
    )
    return {
        "kernel_distance_over_subsets": found.mean,
        "kernel_distance_error": found.standard_error,
    }


# Those that are given what is measured as it is.
register("metric", "1606.03498")(
    images_needed(fewest=lambda features, splits=1, seed=0: splits)(scores.inception_score)
)
register("metric", "2210.02410", "2310.12952")(scores.vendi_score)
register("metric")(images_needed(mean=True)(scores.agreement))
register("metric")(images_needed(fewest=lambda features: 2)(scores.class_diversity))
for metric in (appearance.saturation, appearance.contrast, appearance.white):
    register("metric", "2410.02416")(images_needed(mean=True)(metric))
