"""How the arrays of published PyTorch checkpoints are laid out in the networks here.

A key table maps a name of the checkpoint to an `Entry`, or to None where the checkpoint holds a
constant that the network here computes for itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
    """Where an array belongs: its path among the parameters, joined by "/", and its transform."""

    path: str
    transform: Callable[[np.ndarray], np.ndarray]


def as_is(array: np.ndarray) -> np.ndarray:
    """Return a bias, a scale or a table as it is."""
    return array


def linear(weight: np.ndarray) -> np.ndarray:
    """Turn a linear layer's ``[out, in]`` into ``[in, out]``."""
    return weight.T


def conv(weight: np.ndarray) -> np.ndarray:
    """Turn a convolution's ``[out, in, height, width]`` into ``[height, width, in, out]``."""
    return weight.transpose(2, 3, 1, 0)
