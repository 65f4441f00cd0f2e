"""The class token of DINOv2 as a feature space (arXiv 2306.04675)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ...core.checks import require_choice
from ...core.resampling import cubic, separable
from .network_features import NetworkFeatures, load_network

SIDE = 224
# Of ImageNet's colours, from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resized(images: UInt8[Array, "batch h w c"]) -> Float[Array, "batch 224 224 3"]:
    """Return images as the network takes them, grey ones as coloured ones.

    They are resized by antialiased cubic interpolation and not clipped after it, as EDM2's
    evaluation does.
    """
    x = images.astype(jnp.float32)
    rows, columns = (cubic(side, SIDE, antialias=True) for side in x.shape[1:3])
    x = separable(rows, columns, x) / 255
    return (x - np.float32(MEAN)) / np.float32(DEVIATION)


def resized_by_pillow(images: UInt8[np.ndarray, "batch h w c"]) -> UInt8[np.ndarray, "batch s s c"]:
    """Resize on the host and round to whole numbers, as dgm-eval does."""
    from PIL import Image

    def one(picture: np.ndarray) -> np.ndarray:
        plain = picture[..., 0] if picture.shape[-1] == 1 else picture
        small = Image.fromarray(plain).resize((SIDE, SIDE), resample=Image.Resampling.BICUBIC)
        return np.asarray(small).reshape(SIDE, SIDE, -1)

    return np.stack([one(picture) for picture in images])


class DINOv2Features(NetworkFeatures):
    """What `evaluation.extractors.dinov2` makes; its arguments and errors."""

    def __init__(self, weights: str, resize: str, batch_size: int):
        require_choice("evaluation.extractor.resize", resize, ("antialias", "pillow"))
        loaded, identity = load_network(weights, "dinov2", "dinov2", scan_layers=True)

        def see(module: Any, x: Array):
            return module.features(x), None

        super().__init__(
            loaded,
            resized,
            see,
            identity=identity | {"resize": resize},
            batch_size=batch_size,
            before=resized_by_pillow if resize == "pillow" else None,
        )
