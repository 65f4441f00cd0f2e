"""Euler's method in sigma, the same as DDIM (Song et al., arXiv 2010.02502)."""

import dataclasses
from typing import ClassVar

from ...core.registry import register
from .solver import Memoryless, direction


@dataclasses.dataclass(frozen=True)
class Euler(Memoryless):
    """First order, one evaluation a step."""

    order: ClassVar[int] = 1
    renoises: ClassVar[bool] = True

    def step(self, denoise, x, interval, state, key):
        del key
        guided = denoise(x, interval.start)
        # D + sigma' * direction rather than x + (sigma' - sigma) * direction: equal for a plain
        # prediction, exact at sigma' = 0, and what CFG++ asks for when the two sources differ.
        x = guided.denoised + interval.end * direction(x, guided, interval.start)
        return x, guided, state


@register("solver")
def euler() -> Euler:
    """Return Euler's method, ``x' = D + (sigma'/sigma) (x - D)``.

    Source: Karras et al., arXiv 2206.00364, algorithm 1 without its correction; equals DDIM,
    Song et al., arXiv 2010.02502, eq. 12 with no added noise.
    """
    return Euler()
