"""Heun's method in sigma (Karras et al., arXiv 2206.00364, algorithm 1)."""

import dataclasses
from typing import ClassVar

from .euler import Euler
from .solver import Memoryless, direction


@dataclasses.dataclass(frozen=True)
class Heun(Memoryless):
    """Second order, two evaluations a step; a step to sigma = 0 is Euler's."""

    order: ClassVar[int] = 2

    def step(self, denoise, x, interval, state, key):
        del key
        guided = denoise(x, interval.start)
        first = direction(x, guided, interval.start)
        # The predictor of Euler's step, renoised in the same direction.
        trial = guided.denoised + interval.end * first
        second = direction(trial, denoise(trial, interval.end), interval.end)
        x = x + (interval.end - interval.start) * (first + second) / 2
        return x, guided, state

    def at(self, step, sigmas):
        return Euler() if sigmas[step + 1] == 0 else self


def heun() -> Heun:
    """Return Heun's method; ``2 * steps - 1`` evaluations on a schedule that ends in 0.

    Source: Karras et al., arXiv 2206.00364, algorithm 1.
    """
    return Heun()
