"""Difficulty curriculum: high noise first, lower noise as the loss stops to fall.

Kim et al., arXiv 2403.10348: the higher the noise, the easier the task. Noise levels are cut into
parts that are drawn equally often; training begins on the noisiest and takes in the next part
whenever the loss has not improved for a while, until all of them are trained on together.
"""

import dataclasses

import jax.numpy as jnp

from ...core.registry import register
from ..losses.loss import Loss
from .objective import Mean, mean_gradient


@dataclasses.dataclass(frozen=True)
class Curriculum(Mean):
    """The mean loss over the parts of the noise levels that the curriculum has reached.

    Its memory holds ``stage``, the number of parts, from 1; ``best``, the lowest loss of a batch
    in this stage; ``waited``, the number of steps since.

    Attributes:
        parts: N, into how many equal shares of its distribution the noise level is cut.
        patience: steps without a lower loss after which the next part is taken in.

    Raises:
        ValueError: fewer than one part or step.
    """

    parts: int = 20
    patience: int = 200

    def __post_init__(self):
        if self.parts < 1 or self.patience < 1:
            raise ValueError(
                f"curriculum: parts and patience count from 1, got {self.parts} and {self.patience}"
            )

    def init(self):
        """Return the memory of the first stage."""
        return {
            "stage": jnp.ones((), jnp.int32),
            "best": jnp.full((), jnp.inf, jnp.float32),
            "waited": jnp.zeros((), jnp.int32),
        }

    def span(self, memory) -> tuple:
        """Return the shares of the distribution that a stage draws from."""
        return 1 - memory["stage"] / self.parts, 1.0

    def gradient(self, roles, memory, params, batch, keys):
        """Return the gradient of the mean loss over the stage's noise levels, and metrics."""
        return mean_gradient(self, roles, params, batch, keys, self.span(memory))

    def settle(self, gradient, metrics, memory, key):
        """Return the gradient as it is, the stage among the metrics, and the next memory."""
        del key
        stage, loss = memory["stage"], metrics["loss"]
        better = loss < memory["best"]
        waited = jnp.where(better, 0, memory["waited"] + 1)
        onwards = (waited >= self.patience) & (stage < self.parts)
        # What is lowest in one stage says nothing about the next, which has harder levels.
        following = {
            "stage": jnp.where(onwards, stage + 1, stage),
            "best": jnp.where(onwards, jnp.inf, jnp.where(better, loss, memory["best"])),
            "waited": jnp.where(onwards, 0, waited),
        }
        return gradient, metrics | {"stage": stage.astype(jnp.float32)}, following


@register("objective", "2403.10348")
def curriculum(loss: Loss, scale: float, /, parts: int = 20, patience: int = 200) -> Curriculum:
    """Train on high noise first, and on lower noise as the loss stops to fall.

    Args:
        loss, scale: as of `objective.Mean`.
        parts, patience: as of `Curriculum`.

    Raises:
        ValueError: fewer than one part or step.
    """
    return Curriculum(loss, scale, parts, patience)
