"""Classifier guidance with an off-the-shelf classifier, EluCD (Ma et al., arXiv 2310.11311)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.noise_levels import BETA_MAX, BETA_MIN, vp_time
from ...core.pytrees import pytree, static
from ...core.registry import register
from ..gradients import note_gradient
from ..protocol import CLASSIFIER, NULL, Branch, require_finite, single
from ..pushes import Push, Scale
from .classifier import checked_base, labels_of, of_class


def step_size(sigma: Float[Array, ""], sine: float | Array) -> Float[Array, ""]:
    """Return what multiplies the classifier's gradient in the x0 prediction.

    The paper shifts the mean of a DDPM step by ``(Sigma_t + sine Sigma_max sin(pi t)) g``. With
    ``Sigma_t = beta(t) dt``, that is ``r g`` added to the score of the variance-preserving
    sample, ``r = 1 + sine beta(1) / beta(t) sin(pi t)``; in the coordinates of this library the
    score shrinks by ``sqrt(1 + sigma^2)``, and the x0 prediction moves by ``sigma^2`` times it:
    ``sigma^2 / sqrt(1 + sigma^2) r``. Sampling begins at the largest variance, so its running
    maximum is ``beta(1)`` throughout.
    """
    t = vp_time(sigma)
    ratio = BETA_MAX / (BETA_MIN + t * (BETA_MAX - BETA_MIN))
    rise = 1 + single("sine", sine, sigma.dtype) * ratio * jnp.sin(jnp.pi * t)
    return sigma**2 / jnp.sqrt(1 + sigma**2) * rise


@pytree
class CalibratedClassifier:
    """From a base prediction to the same one moved up a classifier's gradient there."""

    tau1: float | Array
    tau2: float | Array
    sine: float | Array
    condition: str = static(default=NULL)

    def predictions(self, evaluate, x, sigma, key):
        del key
        (base,) = evaluate((Branch(condition=self.condition),))
        labels = labels_of("elucd", evaluate.condition, x.shape[0])
        tau1, tau2 = (single("tau", tau, base.dtype) for tau in (self.tau1, self.tau2))

        def evidence(denoised):
            asked = Branch(network=CLASSIFIER)
            note_gradient(evaluate, asked)
            (logits,) = evaluate((asked,), x=denoised, sigma=jnp.zeros_like(sigma))
            joint = jax.nn.logsumexp(tau2 * logits, axis=-1)
            return jnp.sum(tau1 * of_class(logits, labels) - joint)

        return base + step_size(sigma, self.sine) * jax.grad(evidence)(base), base


@register("reference", "2310.11311")
def calibrated_classifier(
    tau1: float | Array = 1.0,
    tau2: float | Array = 0.5,
    sine: float | Array = 0.3,
    condition: str = NULL,
) -> CalibratedClassifier:
    """Return the push of `elucd` on a base prediction, for transforms to work on.

    Raises:
        ValueError: a number that is not finite, or a condition other than ``null`` and ``given``.
    """
    require_finite("calibrated_classifier", tau1=tau1, tau2=tau2, sine=sine)
    base = checked_base("calibrated_classifier", condition)
    return CalibratedClassifier(tau1, tau2, sine, base)


@register("rule", "2310.11311")
def elucd(
    scale: float | Array,
    tau1: float | Array = 1.0,
    tau2: float | Array = 0.5,
    sine: float | Array = 0.3,
    condition: str = NULL,
) -> Push:
    r"""Return guidance by a classifier of clean images, ``D_base + scale * step(sigma) * g``.

    ``g = grad_D [tau1 f_y(D) - logsumexp(tau2 f(D))]`` with the logits ``f`` of the network
    ``classifier``, called at the predicted image ``D = D_base`` and sigma 0. The gradient stops
    there: the denoiser is not differentiated. ``step(sigma) = sigma^2 / sqrt(1 + sigma^2)
    (1 + sine beta(1) / beta(t) sin(pi t))``, t the variance-preserving time (see `step_size`).

    The paper also replaces the classifier's ReLU by a softplus, which is for the callable given
    as ``classifier`` to do. Scale 1 is not the plain prediction; scale 0 is the base.

    Equation:
        D = D_\varnothing + w s(\sigma) \nabla_D \left(\tau_1 f_y(D) - \mathrm{logsumexp}(\tau_2
        f(D))\right)

    When to use: For a classifier of clean images, trained without noise, and best on top of a
    condition.

    Args:
        scale: the classifier's weight; 1 in the paper.
        tau1, tau2: temperatures of the joint and the marginal logits: both 1 is the gradient of
            the class's log-probability, ``tau2 = 0`` that of its logit alone.
        sine: extra weight between the ends of the noise range; 0 is none.
        condition: what the base prediction is made for, ``null`` or ``given``.

    Raises:
        ValueError: a number that is not finite, or another condition; when traced, labels that
            are missing or not integers.

    Source: Ma et al., arXiv 2310.11311; the defaults are its for DDPM sampling.
    """
    require_finite("elucd", scale=scale, tau1=tau1, tau2=tau2, sine=sine)
    base = checked_base("elucd", condition)
    return Push(Scale(scale), CalibratedClassifier(tau1, tau2, sine, base))
