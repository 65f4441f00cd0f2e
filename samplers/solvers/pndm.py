"""Pseudo numerical methods for diffusion models (Liu et al., arXiv 2202.09778)."""

import dataclasses
from typing import ClassVar

import numpy as np

from ...core.registry import register
from .multistep import EQUAL_STEPS, Multistep
from .runge_kutta import TABLEAUS, runge_kutta

WARM_UP = 3
WARM_UPS = ("runge_kutta", "heun")


@dataclasses.dataclass(frozen=True)
class Pndm(Multistep):
    """The weights of four equal steps, after three steps of Runge and Kutta's."""

    name: ClassVar[str] = "pndm"
    order: ClassVar[int] = 2
    directions: int = WARM_UP + 1

    def weights(self, sigmas):
        """Return each step's length times the weights of equal steps; Euler's for the warm-up."""
        weights = np.zeros((len(sigmas) - 1, self.directions))
        weights[:WARM_UP, 0] = 1
        weights[WARM_UP:] = EQUAL_STEPS[self.directions]
        return np.diff(sigmas)[:, None] * weights

    def at(self, step, sigmas):
        del sigmas
        return PSEUDO_RUNGE_KUTTA if step < WARM_UP else self


@dataclasses.dataclass(frozen=True)
class PseudoRungeKutta(Pndm):
    """The warm-up: four evaluations a step, of which the history keeps the first direction."""

    def step(self, denoise, x, interval, state, key):
        del key
        x, guided, first = runge_kutta(TABLEAUS[4], denoise, x, interval)
        return x, guided, (first, *state)[: len(state)]


# One object, so that neighbouring steps of the warm-up share a scan.
PSEUDO_RUNGE_KUTTA = PseudoRungeKutta()


@dataclasses.dataclass(frozen=True)
class Plms(Pndm):
    """The weights of one, two, three and then four equal steps, after a step of Heun's."""

    def weights(self, sigmas):
        """Return each step's length times the weights of as many equal steps as there are."""
        weights = np.zeros((len(sigmas) - 1, self.directions))
        for step in range(len(weights)):
            order = min(step + 1, self.directions)
            weights[step, :order] = EQUAL_STEPS[order]
        return np.diff(sigmas)[:, None] * weights

    def at(self, step, sigmas):
        del sigmas
        return self if step else HEUN_START


@dataclasses.dataclass(frozen=True)
class HeunStart(Plms):
    """The first step: two evaluations, of which the history keeps the first direction."""

    def step(self, denoise, x, interval, state, key):
        del key
        x, guided, first = runge_kutta(TABLEAUS[2], denoise, x, interval)
        return x, guided, (first, *state)[: len(state)]


HEUN_START = HeunStart()


@register("solver")
def pndm(warm_up: str = "runge_kutta") -> Pndm:
    """Return F-PNDM: three pseudo Runge-Kutta steps, then pseudo linear multistep ones.

    ``x' = x + (sigma' - sigma) (55 d_0 - 59 d_1 + 37 d_2 - 9 d_3) / 24``: the paper's transfer of a
    direction is Euler's step in sigma. Of fourth order on equal steps in sigma, of second on
    others. The warm-up's middle is halfway in sigma, so it is the classical Runge-Kutta method;
    the paper's is halfway in its own time. A step to sigma = 0 is Euler's. ``steps + 9``
    evaluations, of four steps or more.

    Args:
        warm_up: ``runge_kutta`` as published, or ``heun``: one step of Heun's method, then the
            weights of two, of three and of four equal steps, ``steps + 1`` evaluations; known as
            PLMS, the sampler that Stable Diffusion was released with.

    Raises:
        ValueError: another warm-up; when sampling, fewer than four steps.

    Source: Liu et al., arXiv 2202.09778, eq. 11 to 13 and algorithm 2.
    """
    if warm_up not in WARM_UPS:
        raise ValueError(f"samplers.pndm: warm_up is {' or '.join(WARM_UPS)}, got {warm_up!r}")
    return Plms() if warm_up == "heun" else Pndm()
