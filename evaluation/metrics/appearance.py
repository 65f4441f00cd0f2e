"""Colour saturation and contrast, the signs of over-guidance (Sadat et al., arXiv 2410.02416).

The paper names both quantities without formulas; the usual definitions are used here and stated.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8

from .feature_sets import row_blocks

# ITU-R BT.601 luma, the weights of every common grayscale conversion.
LUMA = np.array([0.299, 0.587, 0.114])


Images = UInt8[np.ndarray, "batch h w c"] | Float[np.ndarray, "batch h w c"]


def _unit_range(images: Images) -> Iterator[Float[np.ndarray, "block h w c"]]:
    """Yield images as float64 in [0, 1], some at a time: as many as the memory limit lets in.

    Raises:
        ValueError: not [batch, h, w, 1 or 3], or floats outside [-1, 1].
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images have shape {images.shape}; give [batch, height, width, channels] with 1 or 3 "
            f"channels and at least one image"
        )
    for block in row_blocks(len(images), images[0].size):
        part = images[block]
        if part.dtype == np.uint8:
            yield part / 255.0
            continue
        part = part.astype(np.float64)
        # `not <=` rather than `>`: NaN must not pass.
        if not np.abs(part).max() <= 1:
            raise ValueError("float images must lie in [-1, 1]: clip them, or give uint8")
        yield (part + 1) / 2


def saturation(images: Images) -> float:
    """Return the mean HSV saturation, ``(max - min) / max`` over a pixel's channels, 0 for black.

    Args:
        images: uint8, or float in [-1, 1]. One channel is gray and has saturation 0.

    Raises:
        ValueError: another shape, or floats outside [-1, 1].
    """
    means = []
    for part in _unit_range(images):
        high, low = part.max(axis=-1), part.min(axis=-1)
        means.append(np.mean((high - low) / np.where(high > 0, high, 1), axis=(1, 2)))
    return float(np.mean(np.concatenate(means)))


def contrast(images: Images) -> float:
    """Return the standard deviation of each image's gray levels in [0, 1], mean over images.

    Args:
        images: uint8, or float in [-1, 1]. Gray is the BT.601 luma.

    Raises:
        ValueError: another shape, or floats outside [-1, 1].
    """
    deviations = []
    for part in _unit_range(images):
        gray = part[..., 0] if part.shape[-1] == 1 else part @ LUMA
        deviations.append(gray.std(axis=(1, 2)))
    return float(np.concatenate(deviations).mean())


def white(images: Images) -> float:
    """Return the share of values at the very top of the range, where clipping puts them.

    Args:
        images: uint8, or float in [-1, 1].

    Raises:
        ValueError: another shape, or floats outside [-1, 1].
    """
    full = sum(int(np.count_nonzero(part == 1)) for part in _unit_range(images))
    return full / np.asarray(images).size
