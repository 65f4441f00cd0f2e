"""Features that networks see: what all extractors of this package share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from scipy.special import softmax

from ...core.batches import Batches
from ...core.errors import UserError
from ...core.files import sha256
from ...core.macs import count
from ...models.checkpoints import resolve
from ...models.checkpoints.loading import Loaded, fit, load
from .extractor import Extracted


class NetworkFeatures:
    """The features, and perhaps the classes, that a network sees in images.

    Images are taken in batches of one size, the last filled up, so that the network compiles once;
    resizing is a program of its own, since only that depends on their size. Batches are spread over
    the devices of this process. Matrix products are in full float32 on every device.

    Args:
        loaded: the network and its parameters.
        prepare: from uint8 images ``[batch, h, w, c]``, c being 1 or 3, to what the network takes.
        see: from the module and what ``prepare`` returns to features ``[batch, feature]`` and
            logits ``[batch, class]``, or None in their place.
        identity: JSON data: name, weights, their digest, and every setting that changes features.
        batch_size: images at a time; rounded up to a multiple of the devices.
        shape: of the images; None where any are taken.
        before: what is done to the uint8 images on the host, if anything.

    Attributes:
        num_classes: of the logits; 0 without.
        width: numbers in one image's features.
        macs: multiply-adds of one image, resizing left out.

    Raises:
        UserError: a batch of no images.
    """

    def __init__(
        self,
        loaded: Loaded,
        prepare: Callable,
        see: Callable,
        *,
        identity: Mapping[str, Any],
        batch_size: int,
        shape: tuple[int, ...] | None = None,
        before: Callable | None = None,
    ):
        if batch_size < 1:
            raise UserError(f"evaluation.extractor.batch_size is {batch_size}: it is 1 or more")
        self._identity = dict(identity)
        self.shape = shape

        def run(params, x):
            with jax.default_matmul_precision("highest"):
                return see(loaded.network.module(params), x)

        prepared, seen = jax.jit(prepare), jax.jit(run)
        self._seen = Batches(
            lambda params, x: seen(params, prepared(x)), loaded.params, batch_size, before=before
        )
        image = jax.ShapeDtypeStruct((1, *(shape or loaded.spec.shape)), np.uint8)
        inputs = (loaded.spec.shapes, jax.eval_shape(prepare, image))
        features, logits = jax.eval_shape(run, *inputs)
        self.num_classes = 0 if logits is None else logits.shape[-1]
        self.width = features.shape[-1]
        self.macs = count(run, *inputs)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, weights, their digest, and every setting that changes features."""
        return self._identity

    def __call__(self, images: UInt8[np.ndarray, "image h w c"]) -> Extracted:
        """Return features, and class probabilities of a network that gives any."""
        features, logits = self._seen(images)
        if logits is None:
            return Extracted(features)
        # In float64, in which no two logits of float32 fall together.
        chances = softmax(logits.astype(np.float64), axis=-1)
        return Extracted(features, chances)


def load_network(weights: str, network: str, name: str, **overrides: Any) -> tuple[Loaded, dict]:
    """Read an extractor's network, and what identifies its weights.

    Args:
        weights: a path, or a published file's name.
        network: the registered name of the network that it is to be.
        name: the extractor's.
        overrides: fields of the ``model`` section.

    Raises:
        UserError: no such weights, with their address where they are published; or of another
            network.
    """
    path = resolve(weights)
    found = fit(weights).sidecar["model"]["name"]
    if found != network:
        raise UserError(
            f"evaluation.extractor: {weights} holds weights of {found}, and the extractor {name!r} "
            f"takes those of {network}"
        )
    return load(weights, **overrides), identity_of(name, weights, path)


def identity_of(name: str, weights: str, path: Path) -> dict[str, Any]:
    """Return an extractor's name, its weights as they were named, and their digest."""
    return {"name": name, "weights": str(weights), "sha256": sha256(path)}
