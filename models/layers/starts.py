"""How layers start: initialisers of kernels and biases, and random keys for deep networks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from .dense import zeros


class Start(NamedTuple):
    """How a layer starts: its kernel's initialiser, and its bias's by the layer's fan-in."""

    kernel: nnx.Initializer
    bias: Callable[[int], nnx.Initializer] = lambda fan_in: zeros


def _uniform_bias(fan_in: int) -> nnx.Initializer:
    limit = fan_in**-0.5

    def start(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return start


# Kernels and biases uniform within one over the root of the fan-in.
UNIFORM = Start(nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias)


class Keys:
    """Random keys for a network's layers, which take it in the place of `nnx.Rngs`.

    Those count their draws in an array. Where that is traced, every draw goes over the whole
    program so far, and building a network takes time quadratic in its number of layers.
    """

    def __init__(self, rngs: "nnx.Rngs | Keys"):
        self._key, self._count = rngs.params(), 0

    def params(self) -> Key[Array, ""]:
        """Return a key that is like no other of them."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


# What layers draw their parameters from.
Rngs = nnx.Rngs | Keys
