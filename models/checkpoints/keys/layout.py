"""How a published array is laid out, and how this project lays it out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
    """Where a published array goes.

    Attributes:
        path: of the parameter here, ``blocks/0/mlp_in/kernel``.
        transform: from the published layout to this project's.
    """

    path: str
    transform: Callable[[np.ndarray], np.ndarray]


def as_is(array: np.ndarray) -> np.ndarray:
    """Return an array whose layout is the same in both."""
    return array


def linear(array: np.ndarray) -> np.ndarray:
    """Return a matrix ``[out, in]`` as ``[in, out]``."""
    return array.T


def conv(array: np.ndarray) -> np.ndarray:
    """Return a kernel ``[out, in, height, width]`` as ``[height, width, in, out]``."""
    return array.transpose(2, 3, 1, 0)
