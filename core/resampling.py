"""Resizing as matrices: what evaluators, networks and pyramids resize by, each in its own form.

A resized row is ``matrix @ row``, and an image is resized by one matrix along its height and one
along its width. Matrices are float64 on the host; where libraries differ, the form is named.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Of the cubic kernel (Keys 1981): what torch has without antialiasing, and Pillow and torch with.
SHARP, SMOOTH = -0.75, -0.5


def separable(
    rows: Float[np.ndarray, "h2 h"], columns: Float[np.ndarray, "w2 w"], x: Float[Array, "n h w c"]
) -> Float[Array, "n h2 w2 c"]:
    """Apply one matrix along the height and one along the width."""
    rows, columns = rows.astype(x.dtype), columns.astype(x.dtype)
    # Filters and resizing as small matrices: far cheaper than padding, slicing and gathering.
    x = jnp.einsum("ih,bhwc->biwc", rows, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("jw,biwc->bijc", columns, x, precision=jax.lax.Precision.HIGHEST)


def linear(length: int, wanted: int) -> Float[np.ndarray, "wanted length"]:
    """Sample a row linearly between the centres of its pixels, without antialiasing.

    As `torch.nn.functional.interpolate` does with ``align_corners=False``.
    """
    where = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
    return _between(where, length)


def linear_from_corners(length: int, wanted: int) -> Float[np.ndarray, "wanted length"]:
    """Sample a row linearly between the left edges of its pixels, without antialiasing.

    As TensorFlow 1's ``ResizeBilinear`` does with ``align_corners=False``, places in float32.
    """
    scale = np.float32(length) / np.float32(wanted)
    return _between(np.arange(wanted, dtype=np.float32) * scale, length)


def _between(where: np.ndarray, length: int) -> np.ndarray:
    left = np.clip(np.floor(where).astype(int), 0, length - 1)
    share = (where - left).astype(np.float64)
    matrix = np.zeros((len(where), length))
    matrix[np.arange(len(where)), left] += 1 - share
    matrix[np.arange(len(where)), np.minimum(left + 1, length - 1)] += share
    return matrix


def cubic(
    length: int, wanted: int, *, antialias: bool = False, offset: float = 0.0
) -> Float[np.ndarray, "wanted length"]:
    """Sample a row by cubic interpolation, as `torch.nn.functional.interpolate` does.

    Args:
        length, wanted: pixels before and after.
        antialias: widen the kernel where a row becomes shorter, and take its sharpness of -1/2, as
            Pillow does; the kernel of -3/4 otherwise, its edge pixels repeated.
        offset: is added to ``wanted`` where the scale is computed (`DINOv2` has 0.1).
    """
    scale = length / (wanted + offset)
    centres = (np.arange(wanted) + 0.5) * scale
    if antialias:
        wide = max(scale, 1.0)
        distance = (np.arange(length) + 0.5 - centres[:, None]) / wide
        # Pixels outside of the row have no part, and the others share what they would have had.
        matrix = _kernel(distance, SMOOTH)
        return matrix / matrix.sum(axis=1, keepdims=True)
    where = centres - 0.5
    first = np.floor(where).astype(int) - 1
    matrix = np.zeros((wanted, length))
    for tap in range(4):
        pixel = np.clip(first + tap, 0, length - 1)
        np.add.at(matrix, (np.arange(wanted), pixel), _kernel(where - (first + tap), SHARP))
    return matrix


def _kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Return the cubic convolution kernel of sharpness ``a``."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
