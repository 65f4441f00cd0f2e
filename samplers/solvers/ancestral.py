"""Ancestral sampling: a deterministic step to less noise than asked for, then fresh noise.

Every step is written in the guided prediction D and the source S of its noise direction: equal
for most rules, different for CFG++ (Chung et al., arXiv 2406.08070).
"""

from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.random import normal_like
from ...core.registry import register
from .euler import Euler
from .solver import Kernel, Memoryless, direction, source, two_stages

VARIANCES = ("posterior", "beta", "interpolated")


class Levels(NamedTuple):
    """The noise levels between the ends of a step.

    Attributes:
        down: where the deterministic step ends; with the posterior's variance
            ``sigma_down^2 + sigma_up^2 = sigma'^2``.
        up: how much noise is added there.
        middle: the geometric mean of the start and ``down``.
    """

    down: Float[Array | np.ndarray, " *steps"]
    up: Float[Array | np.ndarray, " *steps"]
    middle: Float[Array | np.ndarray, " *steps"]


def levels(start: np.ndarray, end: np.ndarray, eta: float) -> Levels:
    """Return the noise levels of steps, ``sigma_up = eta sigma' sqrt(1 - sigma'^2/sigma^2)``."""
    up = eta * end * np.sqrt(1 - (end / start) ** 2)
    down = np.sqrt(end**2 - up**2)
    return Levels(down, up, np.sqrt(start * down))


class PosteriorNoise(Memoryless):
    """What ancestral solvers share: a share ``eta`` of the posterior's noise, and its tables."""

    renoises: ClassVar[bool] = True
    eta: float

    def tables(self, sigmas):
        """Return each step's `Levels`."""
        return levels(sigmas[:-1], sigmas[1:], self.eta)


@pytree
class EulerAncestral(PosteriorNoise, Kernel):
    """Euler's step to ``sigma_down``, one evaluation; first order at ``eta = 0``.

    Attributes:
        eta: share of the posterior's standard deviation.
        share: place of the variance between the posterior's, 0, and beta, 1, in logarithms.
    """

    order: ClassVar[int] = 1
    eta: float
    share: float

    def tables(self, sigmas):
        """Return each step's `Levels`, the noise between the posterior's and that of beta."""
        start, end = sigmas[:-1], sigmas[1:]
        to = super().tables(sigmas)
        beta = np.sqrt((start**2 - end**2) * (1 + end**2) / (1 + start**2))
        # Beta is more than nothing in a step to 0 too, where no noise is added all the same.
        return to._replace(up=np.where(end > 0, to.up ** (1 - self.share) * beta**self.share, 0))

    @property
    def random(self) -> bool:
        """Whether eta is above 0."""
        return bool(self.eta > 0)

    def transition(self, x, guided, interval):
        to = interval.table
        return guided.denoised + to.down * direction(x, guided, interval.start), to.up


@pytree
class Dpm2Ancestral(PosteriorNoise):
    """The midpoint method to ``sigma_down``, two evaluations; second order at ``eta = 0``."""

    order: ClassVar[int] = 2
    renoises: ClassVar[bool] = False
    eta: float

    def step(self, denoise, x, interval, state, key):
        to = interval.table
        guided, trial, half = two_stages(
            denoise,
            x,
            (interval.start, to.middle),
            lambda guided: guided.denoised + to.middle * direction(x, guided, interval.start),
        )
        half = direction(trial, half, to.middle)
        noise = normal_like(key, x)
        return x + (to.down - interval.start) * half + to.up * noise, guided, state

    def at(self, step, sigmas):
        """Return Euler's method for a step to 0, where the middle would be 0 as well."""
        return Euler() if sigmas[step + 1] == 0 else self


@pytree
class Dpmpp2sAncestral(PosteriorNoise):
    """DPM-Solver++(2S) to ``sigma_down``, two evaluations; second order at ``eta = 0``."""

    order: ClassVar[int] = 2
    eta: float

    def step(self, denoise, x, interval, state, key):
        to = interval.table
        # S e^(-h/2) + (1 - e^(-h/2)) ..., written as Euler's step towards the source: the guided
        # prediction at the start has no say in where the second evaluation is made.
        guided, _, half = two_stages(
            denoise,
            x,
            (interval.start, to.middle),
            lambda guided: source(guided) + to.middle * direction(x, guided, interval.start),
        )
        noise = normal_like(key, x)
        x = half.denoised + to.down * direction(x, half, interval.start) + to.up * noise
        return x, guided, state

    def at(self, step, sigmas):
        """Return Euler's method for a step to 0, where the middle would be 0 as well."""
        return Euler() if sigmas[step + 1] == 0 else self


@register("solver")
def ancestral(
    eta: float = 1.0, variance: str = "posterior", share: float | None = None
) -> EulerAncestral:
    """Return ancestral sampling, ``x' = D + sigma_down (x - S)/sigma + sigma_up z``.

    ``sigma_up = eta sigma' sqrt(1 - sigma'^2/sigma^2)``, ``sigma_down^2 = sigma'^2 - sigma_up^2``.
    S is D, or what CFG++ renoises from. No noise is added in a step to 0.

    Args:
        eta: 0 is Euler's method (DDIM); 1 is DDPM.
        variance: of the noise at eta = 1. "posterior" is that of x' given x and x0, the least;
            "beta", ``(sigma^2 - sigma'^2) (1 + sigma'^2)/(1 + sigma^2)``, that of a step of the
            variance-preserving process, the most; "interpolated" is
            ``beta^share posterior^(1 - share)``.
        share: of "interpolated", from 0, "posterior", to 1, "beta".

    Raises:
        ValueError: eta or share outside [0, 1], an unknown variance, another variance than the
            posterior's with another eta than 1, or a share without "interpolated" or the reverse.

    Source: Song et al., arXiv 2010.02502, eq. 12, in EDM coordinates; "beta" as Ho et al., arXiv
    2006.11239, section 3.2; "interpolated" as Nichol and Dhariwal, arXiv 2102.09672; with CFG++:
    Chung et al., arXiv 2406.08070.
    """
    eta = checked_eta("ancestral", eta)
    if variance not in VARIANCES:
        raise ValueError(
            f"samplers.ancestral: variance must be one of {', '.join(VARIANCES)}, got {variance!r}"
        )
    if variance != "posterior" and eta != 1:
        raise ValueError(
            f"samplers.ancestral: the variance {variance!r} is one of eta=1, got eta={eta}; scale "
            f"the noise of variance='posterior' instead"
        )
    if (variance == "interpolated") != (share is not None):
        raise ValueError(
            f"samplers.ancestral: share belongs to variance='interpolated', got variance="
            f"{variance!r} and share={share!r}: give both or neither"
        )
    if share is None:
        return EulerAncestral(eta, float(variance == "beta"))
    share = _plain("ancestral", "share", share)
    if not 0 <= share <= 1:
        raise ValueError(
            f"samplers.ancestral: need 0 <= share <= 1, got {share}; 0 is the posterior's variance"
        )
    return EulerAncestral(eta, share)


@register("solver")
def dpm_2_ancestral(eta: float = 1.0) -> Dpm2Ancestral:
    """Return ancestral DPM-Solver-2; ``2 * steps - 1`` evaluations when it ends in 0.

    ``x' = x + (sigma_down - sigma) d + sigma_up z``, d the noise direction where Euler's step to
    ``sqrt(sigma sigma_down)`` ends. A step to 0 is Euler's.

    Args:
        eta: 0 is the midpoint method in log sigma, without noise; 1 has the posterior's variance.

    Raises:
        ValueError: eta outside [0, 1].

    Source: Karras et al., arXiv 2206.00364, algorithm 2, as k-diffusion makes it ancestral; the
    midpoint as Lu et al., arXiv 2206.00927.
    """
    return Dpm2Ancestral(checked_eta("dpm_2_ancestral", eta))


@register("solver")
def dpmpp_2s_ancestral(eta: float = 1.0) -> Dpmpp2sAncestral:
    """Return ancestral DPM-Solver++(2S); ``2 * steps - 1`` evaluations when it ends in 0.

    With ``h = log(sigma/sigma_down)``, ``sigma_s = sigma e^(-h/2)``, D and S evaluated at
    ``x_s = e^(-h/2) x + (1 - e^(-h/2)) S(x)``:
    ``x' = D(x_s) - e^(-h) S(x_s) + e^(-h) x + sigma_up z``. S is D, or what CFG++ renoises from.
    A step to 0 is Euler's.

    Args:
        eta: 0 is DPM-Solver++(2S), without noise; 1 has the posterior's variance.

    Raises:
        ValueError: eta outside [0, 1].

    Source: Lu et al., arXiv 2211.01095, algorithm 1 with r = 1/2; with CFG++: Chung et al., arXiv
    2406.08070.
    """
    return Dpmpp2sAncestral(checked_eta("dpmpp_2s_ancestral", eta))


def checked_eta(owner: str, eta: float) -> float:
    """Return a share of the posterior's noise.

    Raises:
        ValueError: traced, or outside [0, 1], in the name of ``samplers.owner``.
    """
    eta = _plain(owner, "eta", eta)
    if not 0 <= eta <= 1:
        raise ValueError(f"samplers.{owner}: need 0 <= eta <= 1, got {eta}; 0 adds no noise")
    return eta


def _plain(owner: str, name: str, value: float) -> float:
    try:
        return float(value)
    except Exception as error:
        raise ValueError(
            f"samplers.{owner}: {name} must be a plain number: the noise levels it leads to are "
            f"computed on the host"
        ) from error
