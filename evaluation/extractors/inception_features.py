"""The features of the inception distance (arXiv 1706.08500) and of its spatial form."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ...core.checks import require_choice
from ...core.resampling import linear, linear_from_corners, separable
from .network_features import NetworkFeatures, load_network

SIDE = 299


def resized(images: UInt8[Array, "batch h w c"], form: str) -> Float[Array, "batch 299 299 3"]:
    """Return images as the network takes them, grey ones as coloured ones.

    Args:
        images: of one channel or three.
        form: "graph", as TensorFlow's graph resizes and scales, which ADM's evaluator, EDM's and
            torch-fidelity follow; or "pytorch_fid", as that package does: pixels are sampled
            between their centres, and 255 is 1.
    """
    x = images.astype(jnp.float32)
    between = linear_from_corners if form == "graph" else linear
    rows, columns = (between(side, SIDE) for side in x.shape[1:3])
    x = separable(rows, columns, x)
    x = (x - 128) / 128 if form == "graph" else x / 127.5 - 1
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


class InceptionFeatures(NetworkFeatures):
    """What `evaluation.extractors.inception` makes; its arguments and errors."""

    def __init__(self, weights: str, features: str, resize: str, batch_size: int):
        require_choice("evaluation.extractor.features", features, ("pooled", "spatial"))
        require_choice("evaluation.extractor.resize", resize, ("graph", "pytorch_fid"))
        loaded, identity = load_network(weights, "inception_v3", "inception")

        def see(module: Any, x: Array):
            if features == "spatial":
                return module.spatial(x), None
            pooled = module.features(x)
            return pooled, module.logits_without_bias(pooled)

        super().__init__(
            loaded,
            lambda images: resized(images, resize),
            see,
            identity=identity | {"features": features, "resize": resize},
            batch_size=batch_size,
        )
