"""How probable a class is, to a classifier of clean images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...core.errors import UserError
from ...core.pytrees import pytree, static
from ...core.registry import register
from ...models.checkpoints import load
from ...models.classifiers.trained import TrainedClassifier


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
def classifier(network: Callable | str, label: int | None = None) -> ClassProbability:
    """Return the reward ``log p(label | x0)`` of a classifier of clean images.

    At an inverse temperature of 1 it is Bayes' rule: the log-probability, not the probability.

    Args:
        network: ``(x0, sigma) -> logits [batch, classes]``, a pytree callable such as
            `jax.tree_util.Partial`, asked at sigma 0; or, as a config names it, the weights of a
            classifier: a file, or the name of those that are shipped.
        label: the class; None for each sample's own label, its condition.

    Raises:
        ValueError: a network that cannot be called; when used, no label.
        UserError: no such weights, or they are of no classifier.
    """
    if isinstance(network, str):
        network = _read(network)
    if not callable(network):
        raise ValueError(f"rewards.classifier: network must be callable, got {network!r}")
    return ClassProbability(network, None if label is None else int(label))


def _read(source: str) -> TrainedClassifier:
    loaded = load(source)
    if loaded.spec.preconditioner is not None:
        raise UserError(f"rewards.classifier: {source} is no classifier: name the weights of one")
    return TrainedClassifier(loaded.params, loaded.network)
