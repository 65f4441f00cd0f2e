"""A classifier of clean samples with its parameters, as rules and rewards ask one."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from ..denoiser import Network


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
    """Map ``(x, sigma)`` to logits, with a network trained on clean samples: sigma is ignored.

    Parameters are pytree leaves, so a classifier passes through `jax.jit` as an argument.
    """

    params: Any
    network: Network = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape, without the batch."""
        return self.network.shape

    def __call__(
        self, x: Float[Array, " batch *shape"], sigma: Float[Array, ""] | Float[Array, " batch"]
    ) -> Float[Array, "batch classes"]:
        """Return the logits of ``x``."""
        del sigma
        return self.network.module(self.params)(x)
