"""Colour saturation and contrast, the signs of over-guidance (Sadat et al., arXiv 2410.02416).

The paper names both quantities without formulas; the usual definitions are used here and stated.
"""

import numpy as np
from jaxtyping import Float

# ITU-R BT.601 luma, the weights of every common grayscale conversion.
LUMA = np.array([0.299, 0.587, 0.114])


def _unit_range(images) -> Float[np.ndarray, "batch h w c"]:
    """Return images as float64 in [0, 1].

    Raises:
        ValueError: not [batch, h, w, 1 or 3], or floats outside [-1, 1].
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images have shape {images.shape}; give [batch, height, width, channels] with 1 or 3 "
            f"channels and at least one image"
        )
    if images.dtype == np.uint8:
        return images / 255.0
    images = images.astype(np.float64)
    # `not <=` rather than `>`: NaN must not pass.
    if not np.abs(images).max() <= 1:
        raise ValueError("float images must lie in [-1, 1]: clip them, or give uint8")
    return (images + 1) / 2


def saturation(images: Float[np.ndarray, "batch h w c"]) -> float:
    """Return the mean HSV saturation, ``(max - min) / max`` over a pixel's channels, 0 for black.

    Args:
        images: uint8, or float in [-1, 1]. One channel is gray and has saturation 0.

    Raises:
        ValueError: another shape, or floats outside [-1, 1].
    """
    images = _unit_range(images)
    high, low = images.max(axis=-1), images.min(axis=-1)
    return float(np.mean((high - low) / np.where(high > 0, high, 1)))


def contrast(images: Float[np.ndarray, "batch h w c"]) -> float:
    """Return the standard deviation of each image's gray levels in [0, 1], mean over images.

    Args:
        images: uint8, or float in [-1, 1]. Gray is the BT.601 luma.

    Raises:
        ValueError: another shape, or floats outside [-1, 1].
    """
    images = _unit_range(images)
    gray = images[..., 0] if images.shape[-1] == 1 else images @ LUMA
    return float(gray.std(axis=(1, 2)).mean())


def white(images: Float[np.ndarray, "batch h w c"]) -> float:
    """Return the share of values at the very top of the range, where clipping puts them.

    Args:
        images: uint8, or float in [-1, 1].

    Raises:
        ValueError: another shape, or floats outside [-1, 1].
    """
    return float(np.mean(_unit_range(images) == 1))
