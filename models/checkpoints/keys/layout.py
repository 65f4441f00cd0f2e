"""How a published array is laid out, and how this project lays it out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ....core.files import Array


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


def rows(array: np.ndarray) -> np.ndarray:
    """Return tokens ``[1, token, width]``, or one alone, as ``[token, width]``."""
    return array.reshape(-1, array.shape[-1])


def joined(tensors: Sequence[Any]) -> Array:
    """Return arrays one after another along their first axis, read when it is asked for."""
    shapes = [tensor.shape for tensor in tensors]
    shape = (sum(one[0] for one in shapes), *shapes[0][1:])
    return Array(shape, tensors[0].dtype, lambda: np.concatenate([one.read() for one in tensors]))
