"""Extractors of features from images, by name; networks are loaded when one is made."""

from collections.abc import Mapping
from typing import Any

from ...core.errors import UserError
from ...core.registry import register, registry
from .extractor import (
    Extracted,
    Extractor,
    FeatureFunction,
    Together,
    features_of,
    in_batches,
    require_images,
)

__all__ = [
    "Extracted",
    "Extractor",
    "FeatureFunction",
    "Together",
    "classifier",
    "features_of",
    "in_batches",
    "make_extractor",
    "require_images",
]


@register("extractor")
def classifier(weights: str) -> Extractor:
    """Take the penultimate layer of a classifier: weights by path or shipped name."""
    from .classifier_features import ClassifierFeatures  # which loads flax

    return ClassifierFeatures(weights)


def make_extractor(
    weights: str, section: Mapping[str, Any] | None = None, where: str = "evaluation"
) -> Extractor:
    """Return the extractor that a config's section asks for.

    Args:
        weights: of a classifier, which gives the classes and, where no other extractor is named,
            the features; may be empty where one is.
        section: ``{"name": ..., argument: ...}`` of a registered extractor; None, or that of the
            ``classifier`` without weights, for the classifier's own features.
        where: the section's place, for messages.

    Raises:
        UserError: neither is named, an unknown extractor, or weights of something else.
    """
    own = section is None or dict(section) == {"name": classifier.__name__}
    if not own:
        assert section is not None
        features = registry("extractor").build(section, f"{where}.extractor")
        if not isinstance(features, Extractor):
            raise UserError(
                f"{where}.extractor.name {section['name']!r} made no extractor: return "
                f"guidestar.evaluation.FeatureFunction(function, identity=...)"
            )
        return Together(features, classifier(weights)) if weights else features
    if not weights:
        raise UserError(
            f"{where}.classifier is empty: name the weights of a classifier, or another "
            f"{where}.extractor of {', '.join(registry('extractor'))}"
        )
    return classifier(weights)
