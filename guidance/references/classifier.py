"""Classifier guidance with a noise-aware classifier (Dhariwal & Nichol, arXiv 2105.05233)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..gradients import note_gradient
from ..protocol import CLASSIFIER, GIVEN, NULL, Branch, require_finite
from ..pushes import Push, Scale


@pytree
class ClassifierGradient:
    """From a base prediction to the same one moved up the classifier's gradient."""

    condition: str = static(default=NULL)

    def predictions(self, evaluate, x, sigma, key):
        del key
        (base,) = evaluate((Branch(condition=self.condition),))
        labels = labels_of("classifier", evaluate.condition, x.shape[0])

        def log_probability(x):
            asked = Branch(network=CLASSIFIER)
            note_gradient(evaluate, asked)
            (logits,) = evaluate((asked,), x=x, sigma=sigma)
            return jnp.sum(of_class(jax.nn.log_softmax(logits), labels))

        return base + sigma**2 * jax.grad(log_probability)(x).astype(base.dtype), base


@register("reference", "2105.05233")
def classifier_gradient(condition: str = NULL) -> ClassifierGradient:
    """Return the push ``sigma^2 grad_x log p(y | x; sigma)`` on a base prediction ``D_base``.

    ``D_main`` is the sum of the two and ``D_ref`` is ``D_base``, so every transform of the push
    works on the classifier's gradient.

    Args:
        condition: what the base prediction is made for, ``null`` or ``given``.

    Raises:
        ValueError: another condition.
    """
    return ClassifierGradient(checked_base("classifier_gradient", condition))


@register("rule", "2105.05233")
def classifier(scale: float | Array, *, condition: str = NULL) -> Push:
    r"""Return classifier guidance, ``D_base + scale * sigma^2 grad_x log p(y | x; sigma)``.

    The network ``classifier`` is a callable ``(x, sigma) -> logits`` trained on noisy samples;
    ``y`` is the label the sampler was given. Here scale 1 is not the plain conditional prediction
    but the base tilted by the classifier: with the exact posterior it is the conditional
    denoiser. Scale 0 is the base.

    Equation:
        D = D_\varnothing + w \sigma^2 \nabla_x \log p(y \mid x; \sigma)

    When to use: For a network without classes and a classifier trained on noisy samples.

    Args:
        scale: the classifier's weight; the paper's scale, 0.5 to 10.
        condition: what the base prediction is made for: ``null``, or ``given`` to guide a
            conditional model further.

    Raises:
        ValueError: scale not finite, or another condition; when traced, labels that are missing
            or not integers.

    Source: Dhariwal & Nichol, arXiv 2105.05233, algorithm 2 (there for the noise prediction).
    """
    require_finite("classifier", scale=scale)
    return Push(Scale(scale), ClassifierGradient(checked_base("classifier", condition)))


def checked_base(owner: str, condition: str) -> str:
    """Return the condition of a base prediction.

    Raises:
        ValueError: neither ``null`` nor ``given``, in the name of ``owner``.
    """
    if condition not in (NULL, GIVEN):
        raise ValueError(
            f"guidance.{owner}: condition is {NULL!r} or {GIVEN!r}, the condition of the "
            f"prediction that the classifier moves, got {condition!r}"
        )
    return condition


def labels_of(owner: str, condition: Any, batch: int) -> Int[Array, " batch"]:
    """Return the labels that a classifier is asked about.

    Raises:
        ValueError: missing, not integers, or not one a sample, in the name of ``owner``.
    """
    if condition is None:
        raise ValueError(
            f"guidance.{owner} needs to know which class to guide to: give the sampler or "
            f"guidance.combine integer labels [batch] as condition"
        )
    labels = None if isinstance(condition, Mapping) else jnp.asarray(condition)
    if labels is None or not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != (batch,):
        found = "a mapping" if labels is None else f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(
            f"guidance.{owner}: condition must be integer labels of shape ({batch},), one a "
            f"sample, got {found}"
        )
    return labels


def of_class(
    values: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Return each sample's entry for its label."""
    return jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]
