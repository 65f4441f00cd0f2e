"""Vision transformers as feature spaces: DINOv2 (arXiv 2306.04675) and CLIP's image tower."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ...core.checks import require_choice
from ...core.resampling import cubic, separable
from .network_features import NetworkFeatures, load_network

SIDE = 224


class Colours(NamedTuple):
    """Mean and deviation that a network's images are brought to 0 and 1 by, from 0 to 1."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


IMAGENET = Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = Colours(
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
# What each extractor is made of: its network, and its colours.
NETWORKS = {"dinov2": ("dinov2", IMAGENET), "clip": ("clip_image", OPENAI)}


def resized(
    images: UInt8[Array, "batch h w c"], colours: Colours
) -> Float[Array, "batch 224 224 3"]:
    """Return images as a network takes them, grey ones as coloured ones.

    They are resized by antialiased cubic interpolation and not clipped after it, as EDM2's
    evaluation does. Sides that are not equal become so.
    """
    x = images.astype(jnp.float32)
    rows, columns = (cubic(side, SIDE, antialias=True) for side in x.shape[1:3])
    x = separable(rows, columns, x) / 255
    return (x - np.float32(colours.mean)) / np.float32(colours.deviation)


def resized_by_pillow(images: UInt8[np.ndarray, "batch h w c"]) -> UInt8[np.ndarray, "batch s s c"]:
    """Resize on the host and round to whole numbers, as dgm-eval does."""
    from PIL import Image

    def one(picture: np.ndarray) -> np.ndarray:
        plain = picture[..., 0] if picture.shape[-1] == 1 else picture
        small = Image.fromarray(plain).resize((SIDE, SIDE), resample=Image.Resampling.BICUBIC)
        return np.asarray(small).reshape(SIDE, SIDE, -1)

    return np.stack([one(picture) for picture in images])


class TransformerFeatures(NetworkFeatures):
    """What `evaluation.extractors.dinov2` and `clip` make, by ``name``; their arguments."""

    def __init__(self, name: str, weights: str, resize: str, batch_size: int):
        require_choice("evaluation.extractor.resize", resize, ("antialias", "pillow"))
        network, colours = NETWORKS[name]
        loaded, identity = load_network(weights, network, name, scan_layers=True)

        def see(module: Any, x: Array):
            return module.features(x), None

        super().__init__(
            loaded,
            lambda images: resized(images, colours),
            see,
            identity=identity | {"resize": resize},
            batch_size=batch_size,
            before=resized_by_pillow if resize == "pillow" else None,
        )
