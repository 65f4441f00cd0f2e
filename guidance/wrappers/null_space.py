"""Null-space projection, DDNM: the network fills in what was not measured (2212.00490)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree
from ...core.random import MEASUREMENT_NOISE, folded, normal_like, require_keys
from ...core.registry import register
from ..measurements import Measurement, measured, require_noise, require_share
from ..operators.operator import Operator
from ..protocol import PLAIN, Guided, Rule, require_finite, single
from .spectral import Spectral
from .wrapper import Wrapper


@pytree
class NullSpace(Wrapper):
    """A rule's prediction with the measurement put in; some of its noise drawn anew.

    Attributes:
        rule: whose prediction is projected.
        measurement: what was measured.
        eta: share of the noise that is drawn anew.
    """

    rule: Rule
    measurement: Measurement
    eta: float | Array

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        guided, state = self.rule.apply(evaluate, x, sigma, state, key)
        source = guided.denoised if guided.renoise_from is None else guided.renoise_from
        eta = single("eta", self.eta, x.dtype)
        fresh = normal_like(folded(require_keys("ddnm", key), MEASUREMENT_NOISE), x)
        # The prediction whose noise is sqrt(1 - eta^2) of the old and eta of the new.
        kept = 1 - jnp.sqrt(1 - eta**2)
        renoise = source + kept * (x - source) - eta * sigma * fresh
        projected = guided.denoised + self.measurement.correction(guided.denoised)
        return Guided(projected, renoise, guided.info), state


@register("rule", "2212.00490")
def ddnm(
    operator: Operator,
    measurement: Any,
    noise: float | Array = 0.0,
    *,
    eta: float | Array = 0.85,
    rule: Rule = PLAIN,
) -> NullSpace | Spectral:
    r"""Return null-space guidance, ``D - A^+ (A D - y)``: the measurement holds exactly.

    The noise direction is that of D before the projection, with a share eta of it drawn anew:
    ``x' = D_y + sigma' (sqrt(1 - eta^2) (x - D)/sigma + eta z)``. This eta is not the solver's:
    with `samplers.euler` the rule makes the paper's sampler. With eta 0 it is exact on Gaussian
    data as steps get shorter. With noise (DDNM+) a direction of singular value s is put in as far
    as its noise ``n / s`` allows, as in `ddrm`, whose form this is then.

    Equation:
        D = G - A^+ (A G - y), \quad x' = D + \sigma' \left(\sqrt{1 - \eta^2} \frac{x - G}{\sigma} +
        \eta z\right)

    When to use: For linear measurements with no noise or little: as cheap as plain sampling, and
    the measurement comes out exactly.

    Args:
        operator: A, of `guidance.operators`.
        measurement: y, one for all samples or one a sample ``[batch, ...]``.
        noise: its standard deviation, in the measurement's units.
        eta: share of the noise that is drawn anew, from 0 to 1; 0.85 in the paper's code.
        rule: the guidance inside.

    Raises:
        ValueError: numbers that are not finite, noise below 0, eta outside [0, 1]; when sampling,
            shapes that do not fit, or, with noise, a sampler whose step has no known end.

    Source: Wang et al., arXiv 2212.00490, algorithm 1, and section 3.3 for noise.
    """
    require_finite("ddnm", noise=noise, eta=eta)
    require_noise("ddnm", noise)
    require_share("ddnm", "eta", eta)
    given = measured("ddnm", operator, measurement)
    if isinstance(noise, (int, float)) and noise == 0:
        return NullSpace(rule, given, eta)
    return Spectral(rule, given, noise, eta, 1.0, "ddnm")
