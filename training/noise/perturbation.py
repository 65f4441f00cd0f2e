"""Condition embedding perturbation: noise on the condition's embedding, in training alone.

CEP (arXiv 2405.20494). It is a forward mode at the network's site ``condition_embedding``: a
network that offers the site needs nothing more, and sampling never sees it.
"""

import dataclasses
import math
from typing import ClassVar

import jax
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...core.sites import CONDITION_EMBEDDING

KINDS = ("uniform", "normal")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Perturbed:
    """The forward mode: each sample's embedding plus its own noise.

    Attributes:
        keys: one a sample.
        kind, gamma: see `ConditionPerturbation`.
    """

    keys: Key[Array, " batch"]
    kind: str = dataclasses.field(metadata={"static": True})
    gamma: float = dataclasses.field(metadata={"static": True})

    name: ClassVar[str] = "condition embedding perturbation"
    site: ClassVar[str] = CONDITION_EMBEDDING
    layers: ClassVar[None] = None

    def condition_embedding(
        self, embedding: Float[Array, "batch width"], table: Array | None
    ) -> Float[Array, "batch width"]:
        """Return ``embedding + delta``."""
        del table
        width = embedding.shape[-1]
        reach = self.gamma / math.sqrt(width)
        if self.kind == "uniform":
            noise = jax.vmap(lambda key: jax.random.uniform(key, (width,), minval=-1, maxval=1))
        else:
            noise = jax.vmap(lambda key: jax.random.normal(key, (width,)))
        return embedding + reach * noise(self.keys)


@dataclasses.dataclass(frozen=True)
class ConditionPerturbation:
    """How much noise the embedding of a condition gets.

    ``uniform`` adds numbers from ``(-gamma / sqrt(d), gamma / sqrt(d))``, whose squared norm is
    ``gamma^2 / 3`` on average; ``normal`` ones of std ``gamma / sqrt(d)``, squared norm
    ``gamma^2``; d is the embedding's width.

    Attributes:
        kind: ``uniform`` or ``normal``.
        gamma: 1 in the paper.

    Raises:
        ValueError: another kind, or gamma not above 0.
    """

    kind: str = "normal"
    gamma: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS or not self.gamma > 0:
            raise ValueError(
                f"condition perturbation of kind {self.kind!r} and gamma {self.gamma}: the kind "
                f"is {' or '.join(KINDS)}, gamma is above 0"
            )

    def __call__(self, keys: Key[Array, " batch"]) -> Perturbed:
        """Return the mode for one batch, with one key a sample."""
        return Perturbed(keys, self.kind, self.gamma)


@register("perturbation", name="none")
def unperturbed() -> None:
    """Leave conditions as they are."""


@register("perturbation", "2405.20494")
def cep(kind: str = "normal", gamma: float = 1.0) -> ConditionPerturbation:
    """Add noise to the embedding of a condition.

    Args:
        kind, gamma: as of `ConditionPerturbation`.
    """
    return ConditionPerturbation(kind, gamma)
