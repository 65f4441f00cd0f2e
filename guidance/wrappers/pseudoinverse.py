"""Pseudo-inverse guidance, PiGDM: up the likelihood of a linear measurement."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..gradients import pull
from ..measurements import Measurement, measured, require_noise
from ..operators.operator import Operator
from ..protocol import PLAIN, Guided, Rule, per_sample, require_finite, single
from .wrapper import Wrapper


@pytree
class PseudoInverse(Wrapper):
    """A rule's prediction moved up the Gaussian likelihood of a measurement.

    Attributes:
        rule: whose prediction is moved.
        measurement: what was measured.
        noise: standard deviation of the measurement's noise.
        variance: of the data, as it is believed.
        scale: 1 is the likelihood.
        skip: whether J is replaced by what it is for data of that variance.
        remat: see `pull`.
    """

    rule: Rule
    measurement: Measurement
    noise: float | Array
    variance: float | Array
    scale: float | Array
    skip: bool = static(default=False)
    remat: bool = static(default=False)

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        variance = single("variance", self.variance, x.dtype)
        spread = variance * sigma**2 / (variance + sigma**2)
        noise = single("noise", self.noise, x.dtype)
        scale = per_sample("scale", self.scale, x)

        def gain(s):
            # A^T (r^2 A A^T + n^2)^-1 = V s^2 / (r^2 s^2 + n^2) V^T A^+, times r^2.
            total = spread * s**2 + noise**2
            return jnp.where(s > 0, spread * s**2 / jnp.where(s > 0, total, 1), 0)

        def likelihood(denoised):
            correction = self.measurement.correction(denoised)
            return self.measurement.operator.filtered(correction, gain)

        if self.skip:
            guided, state = self.rule.apply(evaluate, x, sigma, state, key)
            shift = likelihood(guided.denoised)
        else:
            guided, state, back = pull(evaluate, self.rule, x, sigma, state, key, remat=self.remat)
            shift = (1 + sigma**2 / variance) * back(likelihood(guided.denoised))
        return Guided(guided.denoised + scale * shift, None, guided.info), state


@register("rule")
def pigdm(
    operator: Operator,
    measurement: Any,
    noise: float | Array = 0.0,
    *,
    variance: float | Array = 1.0,
    scale: float | Array = 1.0,
    skip: bool = False,
    rule: Rule = PLAIN,
    remat: bool = False,
) -> PseudoInverse:
    r"""Return pseudo-inverse guidance: ``D + sigma^2 J^T A^T (r^2 A A^T + n^2)^-1 (y - A D)``.

    It takes the clean sample for ``N(D, r^2)`` with ``r^2 = v sigma^2 / (v + sigma^2)``, v the
    data's variance. On Gaussian data of that variance it samples the posterior exactly; elsewhere
    as well as that covariance fits on what is measured. Without noise it is ``(1 + sigma^2 / v)
    J^T A^+ (y - A D)``. (The RED-diff repository's form is about ``r^2`` times this.)

    Equation:
        D = G + w \sigma^2 J^\top A^\top (r^2 A A^\top + n^2)^{-1} (y - A G), \quad r^2 = \frac{v
        \sigma^2}{v + \sigma^2}

    When to use: For linear measurements with a known noise: the closest to the posterior among
    rules that need one backward pass.

    Args:
        operator: A, of `guidance.operators`.
        measurement: y, one for all samples or one a sample ``[batch, ...]``.
        noise: its standard deviation n, in the measurement's units.
        variance: of the data in the directions that are measured, in the data's units squared; 1
            is the paper's. Brightness and large shapes of images vary far more than a pixel does,
            and too small a number overshoots there: try 4 (docs/howto/own_operator.md).
        scale: 0 is off, 1 the likelihood.
        skip: take J for ``v / (v + sigma^2)``, what it is for data of that variance, and spare the
            backward pass: D is filtered as by a Kalman filter.
        rule: the guidance inside, which is differentiated too.
        remat: compute the network again on the way back, to save memory.

    Raises:
        ValueError: numbers that are not finite, noise below 0, variance not positive; when
            sampling, shapes that do not fit.

    Source: Song et al., "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023,
    eq. 7, in EDM coordinates.
    """
    require_finite("pigdm", noise=noise, variance=variance, scale=scale)
    require_noise("pigdm", noise)
    if isinstance(variance, (int, float)) and not variance > 0:
        raise ValueError(f"guidance.pigdm: variance must be positive, got {variance}")
    given = measured("pigdm", operator, measurement)
    return PseudoInverse(rule, given, noise, variance, scale, bool(skip), bool(remat))
