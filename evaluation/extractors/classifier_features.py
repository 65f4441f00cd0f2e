"""A classifier as a feature space: its penultimate layer, and its classes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from scipy.special import softmax

from ...core.errors import UserError
from ...core.files import sha256
from ...models.checkpoints import load, resolve
from .extractor import Extracted

BATCH = 250


class ClassifierFeatures:
    """The features and classes that a classifier sees in images.

    Args:
        weights: of a classifier, a path or a shipped name.

    Attributes:
        shape: of the images it takes.
        num_classes: classes that it knows.
        width: numbers in one image's features.

    Raises:
        UserError: no such weights, or of another network than a classifier.
    """

    def __init__(self, weights: str):
        path = resolve(weights)
        loaded = load(weights)
        module = loaded.network.module(loaded.params)
        if not hasattr(module, "features") or not hasattr(module, "head"):
            kind = "autoencoder" if loaded.spec.preconditioner is None else "denoiser"
            raise UserError(f"{weights} is a {kind}, not a classifier")
        self.shape = tuple(loaded.spec.shape)
        self.num_classes = loaded.spec.num_classes
        self._identity = {"name": "classifier", "weights": str(weights), "sha256": sha256(path)}
        self._params = loaded.params

        @jax.jit
        def run(params, images):
            module = loaded.network.module(params)
            features = module.features(images)
            return features, module.head(features)

        self._run = run
        like = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        self.width = jax.eval_shape(run, self._params, like)[0].shape[-1]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, weights as they were named, and their digest."""
        return self._identity

    def __call__(self, images: UInt8[np.ndarray, "image h w c"]) -> Extracted:
        """Return features and class probabilities of uint8 images."""
        features, logits = [], []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            # The last batch is filled up, so that one shape is compiled.
            full = np.resize(part, (BATCH, *part.shape[1:])).astype(np.float32) / 127.5 - 1
            found, classes = self._run(self._params, jnp.asarray(full))
            features.append(np.asarray(found)[: len(part)])
            logits.append(np.asarray(classes)[: len(part)])
        # In float64, in which no two logits of float32 fall together.
        chances = softmax(np.concatenate(logits).astype(np.float64), axis=-1)
        return Extracted(np.concatenate(features), chances)
