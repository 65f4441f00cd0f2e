"""SDE-DPM-Solver++ (Lu et al., arXiv 2211.01095): exponential integrators of the reverse SDE."""

from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree, static
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ..checks import plain, switches
from .ancestral import checked_eta, levels
from .dpmpp import less_curved
from .euler import Euler
from .exponential import ExponentialMultistep, Table, integrals, log_steps, orders, past_nodes
from .singlestep import SLOPES, slope_weight
from .solver import Memoryless, direction, require_steps, two_stages


class Stages(NamedTuple):
    """A step's constants: where its two stages end, and the noise of each.

    Attributes:
        middle: noise level of the second evaluation.
        middle_down, middle_up: how the first stage gets there, as in ancestral sampling.
        down, up: the same for the step's end.
        slope: weight of the second prediction's difference from the first.
        same: correlation of the noise at the two places.
    """

    middle: Float[Array | np.ndarray, " *steps"]
    middle_down: Float[Array | np.ndarray, " *steps"]
    middle_up: Float[Array | np.ndarray, " *steps"]
    down: Float[Array | np.ndarray, " *steps"]
    up: Float[Array | np.ndarray, " *steps"]
    slope: Float[Array | np.ndarray, " *steps"]
    same: Float[Array | np.ndarray, " *steps"]


@pytree
class DpmppSde(Memoryless):
    """Two stages, two evaluations and two draws a step; second order at ``eta = 0``.

    Attributes:
        eta: share of the posterior's standard deviation.
        r: where in the step the second evaluation is, in log sigma.
        s_noise: what the added noise is multiplied by.
    """

    order: ClassVar[int] = 2
    eta: float
    r: float
    s_noise: float

    def tables(self, sigmas):
        """Return each step's `Stages`; a step to 0, which is Euler's, has no use for them."""
        start, end = sigmas[:-1], sigmas[1:]
        middle = start ** (1 - self.r) * end**self.r
        first, whole = (levels(start, place, self.eta) for place in (middle, end))
        with np.errstate(invalid="ignore"):
            # The SDE's own noise: what is there in the middle decays by (end/middle)^2.
            same = end / middle * np.sqrt((start**2 - middle**2) / (start**2 - end**2))
        return Stages(
            middle,
            first.down,
            self.s_noise * first.up,
            whole.down,
            self.s_noise * whole.up,
            (1 - whole.down / start) / (2 * self.r),
            np.where(end > 0, same, 0),
        )

    def step(self, denoise, x, interval, state, key):
        to = interval.table
        noise, more = (normal_like(fold_each(key, n), x) for n in range(2))

        def ahead(guided):
            down = guided.denoised + to.middle_down * direction(x, guided, interval.start)
            return down + to.middle_up * noise

        guided, _, half = two_stages(denoise, x, (interval.start, to.middle), ahead)
        first = direction(x, guided, interval.start)
        noise = to.same * noise + (1 - to.same**2) ** 0.5 * more
        x = guided.denoised + to.down * first + to.up * noise
        return x + to.slope * (half.denoised - guided.denoised), guided, state

    def at(self, step, sigmas):
        return Euler() if sigmas[step + 1] == 0 else self


@pytree
class DpmppMultistepSde(ExponentialMultistep):
    """One evaluation a step; the first step and one to sigma = 0 are of first order.

    Attributes:
        eta: share of noise; ``k = 1 + eta``.
        s_noise: what the added noise is multiplied by.
        variant: which polynomial the predictions so far are taken for.
    """

    past: int = static()
    eta: float
    s_noise: float
    variant: str = static()

    @property
    def order(self) -> int:
        """Order of convergence at ``eta = 0``."""
        return 2 if self.variant == "as_published" else self.past + 1

    def tables(self, sigmas):
        """Return each step's `Table`.

        Raises:
            ValueError: too few steps for one to combine as many predictions as asked for.
        """
        most = self.past + 1
        require_steps(f"dpmpp_{most}m_sde", most, sigmas)
        h, k = log_steps(sigmas), 1 + self.eta
        ahead = np.zeros((len(h), self.past))
        for i, known in enumerate(orders(sigmas, most)):
            nodes = past_nodes(sigmas, i, known)
            if known == 2 and self.variant == "midpoint":
                ahead[i, 0] = slope_weight(h[i], nodes[1], "midpoint", k)
            elif known > 1:
                weights = integrals(h[i], nodes, k)
                if known == 3 and self.variant == "as_published":
                    weights = less_curved(weights, nodes)
                ahead[i, : known - 1] = weights[1:]
        return Table(np.exp(-k * h), ahead, self.s_noise * fresh_noise(sigmas, self.eta))


def fresh_noise(sigmas: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """Return the noise that steps add, ``sigma' sqrt(1 - e^(-2 tau^2 h))``, none in one to 0.

    Args:
        sigmas: the schedule, ``[steps + 1]``.
        share: tau^2, of all steps or of each.
    """
    h = np.where(sigmas[1:] > 0, log_steps(sigmas), 0)
    return sigmas[1:] * np.sqrt(-np.expm1(-2 * share * h))


@register("solver")
def dpmpp_sde(eta: float = 1.0, r: float = 0.5, s_noise: float = 1.0) -> DpmppSde:
    """Return SDE-DPM-Solver++(2S); ``2 * steps - 1`` evaluations when it ends in 0.

    An ancestral step to ``sigma_s = sigma^(1 - r) sigma'^r``, noise included, then one to sigma'
    with ``(1 - 1/(2r)) D(x) + D(x_s)/(2r)`` in the place of D. The noise of the two is that of
    one path of the SDE at two of its points, and correlated as such. A step to 0 is Euler's.

    Args:
        eta: share of the posterior's noise; 0 is DPM-Solver++(2S).
        r: where in the step, in log sigma, the second evaluation is; 1 is its end.
        s_noise: factor of the noise.

    Raises:
        ValueError: eta outside [0, 1], r outside (0, 1], or s_noise negative or not finite.

    Source: Lu et al., arXiv 2211.01095, as k-diffusion makes a single step of it.
    """
    eta = checked_eta("dpmpp_sde", eta)
    plain("dpmpp_sde", r=r)
    if not 0 < r <= 1:
        raise ValueError(f"samplers.dpmpp_sde: need 0 < r <= 1, got {r}; 1/2 is the middle")
    return DpmppSde(eta, float(r), _not_negative("dpmpp_sde", "s_noise", s_noise))


@register("solver")
def dpmpp_2m_sde(
    eta: float = 1.0, slope: str = "midpoint", s_noise: float = 1.0
) -> DpmppMultistepSde:
    """Return SDE-DPM-Solver++(2M).

    With ``h = log(sigma/sigma')``, ``k = 1 + eta`` and ``r = h_before/h``:
    ``x' = e^(-kh) x + (1 - e^(-kh)) D + b (D - D_before)/r + sigma' sqrt(1 - e^(-2 eta h)) z``,
    b as ``slope`` says. A step to 0 returns D.

    Args:
        eta: 0 is DPM-Solver++(2M), 1 the reverse SDE of the diffusion; may be more.
        slope: "midpoint", ``b = (1 - e^(-kh))/2``, or "taylor", ``b = 1 - (1 - e^(-kh))/(kh)``,
            the integral of the line through both predictions. Alike to second order.
        s_noise: factor of the noise.

    Raises:
        ValueError: eta or s_noise negative or not finite, or another slope; when sampling, fewer
            than two steps.

    Source: Lu et al., arXiv 2211.01095, as in k-diffusion.
    """
    if slope not in SLOPES:
        raise ValueError(
            f"samplers.dpmpp_2m_sde: slope must be {' or '.join(SLOPES)}, got {slope!r}"
        )
    eta = _not_negative("dpmpp_2m_sde", "eta", eta)
    return DpmppMultistepSde(1, eta, _not_negative("dpmpp_2m_sde", "s_noise", s_noise), slope)


@register("solver")
def dpmpp_3m_sde(
    eta: float = 1.0, s_noise: float = 1.0, *, as_published: bool = False
) -> DpmppMultistepSde:
    """Return SDE-DPM-Solver++(3M).

    With ``h = log(sigma/sigma')``, ``k = 1 + eta`` and P the parabola through the last three
    predictions in log sigma: ``x' = e^(-kh) x + k int_0^h e^(-k(h-u)) P(u) du + sigma' sqrt(1 -
    e^(-2 eta h)) z``. The second step has a line for P, the first and one to 0 a constant.

    Args:
        eta: 0 is DPM-Solver++(3M), 1 the reverse SDE of the diffusion; may be more.
        s_noise: factor of the noise.
        as_published: with half of P's second difference, as the public implementations have it,
            for comparing with their results; second order at eta = 0 then, instead of third.

    Raises:
        ValueError: eta or s_noise negative or not finite; when sampling, fewer than three steps.

    Source: Lu et al., arXiv 2211.01095, as in k-diffusion.
    """
    switches("dpmpp_3m_sde", as_published=as_published)
    eta = _not_negative("dpmpp_3m_sde", "eta", eta)
    s_noise = _not_negative("dpmpp_3m_sde", "s_noise", s_noise)
    return DpmppMultistepSde(2, eta, s_noise, "as_published" if as_published else "exact")


def _not_negative(owner: str, name: str, value: float) -> float:
    plain(owner, **{name: value})
    if value < 0:
        raise ValueError(f"samplers.{owner}: need {name} >= 0, got {value}; 0 adds no noise")
    return float(value)
