"""How probable a class is, to a classifier of clean images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ...core.pytrees import pytree, static
from ...core.registry import register


@pytree
class ClassProbability:
    """The log-probability of a class.

    Attributes:
        network: ``(x0, sigma) -> logits``, a pytree callable, asked at sigma 0.
        label: the class; None for each sample's own condition.
    """

    network: Callable
    label: int | None = static(default=None)

    differentiable = True

    def __call__(self, x0, condition, key):
        del key
        logits = jax.nn.log_softmax(self.network(x0, jnp.zeros((), x0.dtype)))
        if self.label is not None:
            return logits[:, self.label]
        labels = None if condition is None or isinstance(condition, dict) else condition
        if labels is None or not jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer):
            raise ValueError(
                "rewards.classifier: needs the class to ask for: give label=, or sample with "
                "integer labels as condition"
            )
        return jnp.take_along_axis(logits, jnp.asarray(labels)[:, None], axis=1)[:, 0]


@register("reward")
def classifier(network: Any, label: int | None = None) -> ClassProbability:
    """Return the reward ``log p(label | x0)`` of a classifier of clean images.

    At an inverse temperature of 1 it is Bayes' rule: the log-probability, not the probability.

    Args:
        network: ``(x0, sigma) -> logits [batch, classes]``, a pytree callable such as
            `jax.tree_util.Partial`; asked at sigma 0.
        label: the class; None for each sample's own label, its condition.

    Raises:
        ValueError: a network that cannot be called; when used, no label.
    """
    if not callable(network):
        raise ValueError(f"rewards.classifier: network must be callable, got {network!r}")
    return ClassProbability(network, None if label is None else int(label))
