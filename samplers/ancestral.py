"""Ancestral sampling: a deterministic step to less noise than asked for, then fresh noise.

Every step is written in the guided prediction D and the source S of its noise direction: equal
for most rules, different for CFG++ (Chung et al., arXiv 2406.08070).
"""

from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ..guidance.draws import unit_noise
from ..guidance.pytrees import pytree
from .euler import Euler
from .solver import Memoryless, direction, source


class Levels(NamedTuple):
    """The noise levels between the ends of a step, ``sigma_down^2 + sigma_up^2 = sigma'^2``.

    Attributes:
        down: where the deterministic step ends.
        up: how much noise is added there.
        middle: the geometric mean of the start and ``down``.
    """

    down: Float[Array, " *steps"]
    up: Float[Array, " *steps"]
    middle: Float[Array, " *steps"]


def levels(sigmas: np.ndarray, eta: float) -> Levels:
    """Return each step's noise levels, ``sigma_up = eta sigma' sqrt(1 - sigma'^2/sigma^2)``."""
    start, end = sigmas[:-1], sigmas[1:]
    up = eta * end * np.sqrt(1 - (end / start) ** 2)
    down = np.sqrt(end**2 - up**2)
    return Levels(down, up, np.sqrt(start * down))


class Ancestral(Memoryless):
    """What ancestral solvers share: a share ``eta`` of the posterior's noise, and its tables."""

    renoises: ClassVar[bool] = True
    eta: float

    def tables(self, sigmas):
        """Return each step's `Levels`."""
        return levels(sigmas, self.eta)


@pytree
class EulerAncestral(Ancestral):
    """Euler's step to ``sigma_down``, one evaluation; first order at ``eta = 0``."""

    order: ClassVar[int] = 1
    eta: float

    def step(self, denoise, x, interval, state, key):
        to = interval.table
        guided = denoise(x, interval.start)
        noise = unit_noise(key, x.shape[1:], x.dtype)
        x = guided.denoised + to.down * direction(x, guided, interval.start) + to.up * noise
        return x, guided, state


@pytree
class Dpmpp2sAncestral(Ancestral):
    """DPM-Solver++(2S) to ``sigma_down``, two evaluations; second order at ``eta = 0``."""

    order: ClassVar[int] = 2
    eta: float

    def step(self, denoise, x, interval, state, key):
        to = interval.table
        guided = denoise(x, interval.start)
        # S e^(-h/2) + (1 - e^(-h/2)) ..., written as Euler's step towards the source: the guided
        # prediction at the start has no say in where the second evaluation is made.
        first = direction(x, guided, interval.start)
        half = denoise(source(guided) + to.middle * first, to.middle)
        noise = unit_noise(key, x.shape[1:], x.dtype)
        x = half.denoised + to.down * direction(x, half, interval.start) + to.up * noise
        return x, guided, state

    def at(self, step, sigmas):
        """Return Euler's method for a step to 0, where the middle would be 0 as well."""
        return Euler() if sigmas[step + 1] == 0 else self


def euler_ancestral(eta: float = 1.0) -> EulerAncestral:
    """Return ancestral Euler, ``x' = D + sigma_down (x - S)/sigma + sigma_up z``.

    S is D, or what CFG++ renoises from.

    Args:
        eta: 0 is Euler's method; 1 has the posterior's variance, as DDPM.

    Raises:
        ValueError: eta outside [0, 1].

    Source: Song et al., arXiv 2010.02502, eq. 12, in EDM coordinates; with CFG++: Chung et al.,
    arXiv 2406.08070.
    """
    return EulerAncestral(_checked("euler_ancestral", eta))


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
    return Dpmpp2sAncestral(_checked("dpmpp_2s_ancestral", eta))


def _checked(owner: str, eta: float) -> float:
    try:
        eta = float(eta)
    except Exception as error:
        raise ValueError(
            f"samplers.{owner}: eta must be a plain number: the noise levels it leads to are "
            f"computed on the host"
        ) from error
    if not 0 <= eta <= 1:
        raise ValueError(f"samplers.{owner}: need 0 <= eta <= 1, got {eta}; 0 adds no noise")
    return eta
