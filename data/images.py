"""Grids of sample images as uint8 arrays and PNG files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def to_uint8(images: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Map [-1, 1] to 0..255, rounding to nearest and clipping what lies outside."""
    return np.clip(np.rint((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(images: Any) -> Any:
    """Map 0..255 to float32 in [-1, 1], as networks take images; arrays of numpy or of jax."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def grid(
    images: UInt8[np.ndarray, "batch h w c"], *, columns: int | None = None, gap: int = 2
) -> UInt8[np.ndarray, "height width c"]:
    """Lay images out row by row on a white ground.

    Args:
        images: equal-sized images.
        columns: images a row; a square grid when not given.
        gap: pixels between neighbours.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8
    )
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_png(path: Path, image: UInt8[np.ndarray, "h w c"], *, magnify: int = 1) -> None:
    """Write one image (1 or 3 channels) as PNG, each pixel ``magnify`` pixels wide."""
    image = image.repeat(magnify, axis=0).repeat(magnify, axis=1)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
