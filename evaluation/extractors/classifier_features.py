"""A classifier as a feature space: its penultimate layer, and its classes."""

from typing import Any

from ...core.errors import UserError
from ...data.images import from_uint8
from ...models.checkpoints import load, resolve
from .network_features import NetworkFeatures, identity_of

BATCH = 250


class ClassifierFeatures(NetworkFeatures):
    """The features and classes that a classifier sees in images.

    Args:
        weights: of a classifier, a path or a shipped name.

    Raises:
        UserError: no such weights, or of another network than a classifier.
    """

    def __init__(self, weights: str):
        path = resolve(weights)
        loaded = load(weights)
        module = loaded.spec.module
        if not hasattr(module, "features") or not hasattr(module, "head"):
            raise UserError(f"{weights} is {_named(loaded.spec.kind)}, not a classifier")

        def see(module: Any, x: Any):
            features = module.features(x)
            return features, module.head(features)

        super().__init__(
            loaded,
            from_uint8,
            see,
            identity=identity_of("classifier", weights, path),
            batch_size=BATCH,
            shape=tuple(loaded.spec.shape),
        )


def _named(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
