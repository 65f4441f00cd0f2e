"""Gradient-free classifier guidance: away from what a sample is mistaken for.

Shenoy et al., arXiv 2411.15393.

The abstract is what this follows: a classifier in inference mode alone sets a reference class
and a scale at every step. How it does so here (the most likely wrong class of the predicted
image, weighted by the probability of being wrong) is this library's choice.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree
from ...core.registry import register
from ..protocol import CLASSIFIER, Branch, require_finite
from ..pushes import Push, Scale
from .classifier import labels_of, of_class


@pytree
class ConfusedClass:
    """Towards the prediction for the class that a sample is most likely mistaken for."""

    def predictions(self, evaluate, x, sigma, key):
        del key
        (main,) = evaluate((Branch(),))
        labels = labels_of("gfcg", evaluate.condition, x.shape[0])
        (logits,) = evaluate((Branch(network=CLASSIFIER),), x=main, sigma=jnp.zeros_like(sigma))
        own = labels[:, None] == jnp.arange(logits.shape[-1])
        confused = jnp.argmax(jnp.where(own, -jnp.inf, logits), axis=-1).astype(labels.dtype)
        (other,) = evaluate((Branch(condition=confused, name="confused"),))
        doubt = (1 - of_class(jax.nn.softmax(logits), labels)).astype(main.dtype)
        return main, main - doubt.reshape((-1,) + (1,) * (main.ndim - 1)) * (main - other)


@register("reference", "2411.15393")
def confused_class() -> ConfusedClass:
    """Return the reference ``D_given - (1 - p_given) (D_given - D_confused)``, as in `gfcg`."""
    return ConfusedClass()


@register("rule", "2411.15393")
def gfcg(scale: float | Array) -> Push:
    r"""Return gradient-free classifier guidance, away from the class a sample is mistaken for.

    ``D_given + (scale - 1) (1 - p_given) (D_given - D_confused)`` with ``p`` the softmax of the
    classifier's logits on the predicted image ``D_given`` and ``confused`` its most likely class
    other than the given one. No gradient is taken. Where the classifier is sure of the given
    class, nothing is pushed, so scale 0 need not be the reference.

    That a classifier without gradients chooses a reference class and a scale at each step is the
    paper's; the formula for both is this library's.

    Equation:
        D = D_y + (w - 1) (1 - p_y) (D_y - D_c), \quad c = \text{most likely wrong class}

    When to use: To tell apart classes that are confused, with a classifier of clean images and
    no gradient. Samples that are recognised already stay as they are.

    Args:
        scale: 1 is off; reached where the given class has probability 0.

    Raises:
        ValueError: scale not finite; when traced, labels that are missing or not integers.

    Source: Shenoy et al., arXiv 2411.15393, abstract.
    """
    require_finite("gfcg", scale=scale)
    return Push(Scale(scale), ConfusedClass())
