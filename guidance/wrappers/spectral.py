"""Restoration in the measurement's own basis, DDRM: by singular values (2201.11793)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree, static
from ...core.random import MEASUREMENT_NOISE, folded, normal_like, require_keys
from ...core.registry import register
from ..gradients import end_of_step
from ..measurements import Measurement, measured, require_noise, require_share
from ..operators.operator import Operator
from ..protocol import PLAIN, Guided, Rule, require_finite, single
from .wrapper import Wrapper


@pytree
class Spectral(Wrapper):
    """A rule's prediction with the measurement put in as far as its noise allows.

    Attributes:
        rule: whose prediction is changed.
        measurement: what was measured.
        noise: standard deviation of the measurement's noise.
        eta: share of the noise that is drawn anew where nothing is known.
        trust: share of the measurement where it is less noisy than the sample.
        owner: in whose name messages are.
    """

    rule: Rule
    measurement: Measurement
    noise: float | Array
    eta: float | Array
    trust: float | Array
    owner: str = static(default="ddrm")

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        guided, state = self.rule.apply(evaluate, x, sigma, state, key)
        end = jnp.asarray(end_of_step(self.owner, evaluate), x.dtype)
        noise, eta, trust = (
            single(name, value, x.dtype)
            for name, value in (("noise", self.noise), ("eta", self.eta), ("trust", self.trust))
        )
        rest = jnp.sqrt(1 - eta**2)

        def where(s, clear, noisy, unknown):
            """Choose by what is measured: less noise than x' has, more, nothing."""
            return jnp.where(s > 0, jnp.where(end * s >= noise, clear, noisy), unknown)

        def safe(s):
            return jnp.where(s > 0, s, 1)

        def put_in(s):
            # sqrt(1 - eta^2) sigma' / (n / s): the prediction and the measurement share the noise.
            noisy = rest * end * s / jnp.where(noise > 0, noise, 1)
            return where(s, trust, noisy, 0)

        def drawn(s):
            # Of the measurement's own noise, n / s, a share `trust` is in x' already.
            end_safe = jnp.where(end > 0, end, 1)
            taken = jnp.where(end > 0, trust * noise / (safe(s) * end_safe), 0)
            return where(s, jnp.sqrt(jnp.maximum(1 - taken**2, 0)), eta, eta)

        def kept(s):
            return where(s, 0, 0, rest)

        filtered = self.measurement.operator.filtered
        source = guided.denoised if guided.renoise_from is None else guided.renoise_from
        fresh = normal_like(folded(require_keys(self.owner, key), MEASUREMENT_NOISE), x)
        direction = filtered(x - source, kept) + sigma * filtered(fresh, drawn)
        correction = filtered(self.measurement.correction(guided.denoised), put_in)
        return Guided(guided.denoised + correction, x - direction, guided.info), state


@register("rule", "2201.11793")
def ddrm(
    operator: Operator,
    measurement: Any,
    noise: float | Array = 0.0,
    *,
    eta: float | Array = 0.85,
    trust: float | Array = 1.0,
    rule: Rule = PLAIN,
) -> Spectral:
    r"""Return restoration by singular values: each measured direction at its own noise level.

    In the basis of the right singular vectors, with ``y_i`` the measurement over its singular value
    and ``n_i = n / s_i`` its noise: where ``sigma' >= n_i``, ``x'_i = (1 - trust) D_i + trust y_i +
    sqrt(sigma'^2 - trust^2 n_i^2) z``; where ``sigma' < n_i``, ``x'_i = D_i + sqrt(1 - eta^2)
    sigma' (y_i - D_i)/n_i + eta sigma' z``; where nothing is measured, a step that draws a
    share eta of the noise anew. Given the true sample, x' has noise sigma' in every direction. With
    `samplers.euler` the rule makes the paper's sampler. (The published code's last step leaves
    the measurement out where its noise is 0.)

    Equation:
        x'_i = \begin{cases} (1 - \eta_b) G_i + \eta_b y_i + \sqrt{\sigma'^2 - \eta_b^2 n_i^2} z &
        \sigma' \ge n_i \\ G_i + \sqrt{1 - \eta^2} \sigma' (y_i - G_i) / n_i + \eta \sigma' z &
        \sigma' < n_i \end{cases}

    When to use: For linear measurements with noise, in few steps: as cheap as plain sampling.

    Args:
        operator: A, of `guidance.operators`.
        measurement: y, one for all samples or one a sample ``[batch, ...]``.
        noise: its standard deviation n, in the measurement's units.
        eta: share of the noise that is drawn anew, from 0 to 1; 0.85 in the paper.
        trust: the paper's eta_b, from 0 to 1; 1 in the paper.
        rule: the guidance inside.

    Raises:
        ValueError: numbers that are not finite, noise below 0, shares outside [0, 1]; when
            sampling, shapes that do not fit, or a sampler whose step has no known end.

    Source: Kawar et al., arXiv 2201.11793, eq. 7 and 8, in EDM coordinates.
    """
    require_finite("ddrm", noise=noise, eta=eta, trust=trust)
    require_noise("ddrm", noise)
    require_share("ddrm", "eta", eta)
    require_share("ddrm", "trust", trust)
    return Spectral(rule, measured("ddrm", operator, measurement), noise, eta, trust)
