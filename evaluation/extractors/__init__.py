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
    "clip",
    "dinov2",
    "features_of",
    "in_batches",
    "inception",
    "make_extractor",
    "require_images",
]


@register("extractor")
def classifier(weights: str) -> Extractor:
    """Take the penultimate layer of a classifier: weights by path or shipped name."""
    from .classifier_features import ClassifierFeatures  # which loads flax

    return ClassifierFeatures(weights)


@register("extractor", "1706.08500")
def inception(
    weights: str = "pt_inception-2015-12-05-6726825d.pth",
    features: str = "pooled",
    resize: str = "graph",
    batch_size: int = 50,
) -> Extractor:
    """Take InceptionV3's features and classes, as the inception distance and score define them.

    Args:
        weights: of the network, the published file's name or a path.
        features: "pooled", the 2048 of the inception distance, or "spatial", the 2023 of its
            spatial form; classes come with the pooled ones alone.
        resize: "graph", as TensorFlow's graph of 2015-12-05 does, or "pytorch_fid".
        batch_size: images at a time.
    """
    from .inception_features import InceptionFeatures  # which loads flax

    return InceptionFeatures(weights, features, resize, batch_size)


@register("extractor", "2304.07193")
def dinov2(
    weights: str = "dinov2_vitl14_pretrain.pth", resize: str = "antialias", batch_size: int = 32
) -> Extractor:
    """Take the class token of a DINOv2.

    Args:
        weights: of the network, a published file's name or a path.
        resize: "antialias", cubic in float32 as EDM2's evaluation does, or "pillow", cubic on whole
            numbers as dgm-eval does.
        batch_size: images at a time.
    """
    from .transformer_features import TransformerFeatures  # which loads flax

    return TransformerFeatures("dinov2", weights, resize, batch_size)


@register("extractor", "2103.00020")
def clip(
    weights: str = "clip-vit-base-patch32.bin", resize: str = "antialias", batch_size: int = 64
) -> Extractor:
    """Take the features of CLIP's image tower, projected and not normalised.

    Args:
        weights: of the network in transformers' form, a published file's name or a path.
        resize: as of `dinov2`.
        batch_size: images at a time.
    """
    from .transformer_features import TransformerFeatures  # which loads flax

    return TransformerFeatures("clip", weights, resize, batch_size)


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
