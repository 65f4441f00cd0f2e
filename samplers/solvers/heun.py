"""Heun's method in sigma and its family of second order (Karras et al., arXiv 2206.00364)."""

from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register
from ..checks import plain
from .euler import Euler
from .solver import Memoryless, direction, two_stages


class Table(NamedTuple):
    """A step's constants.

    Attributes:
        level: noise level of the second evaluation.
        weight: of the second direction in twice the step, ``1/alpha``.
    """

    level: Float[Array | np.ndarray, " *steps"]
    weight: Float[Array | np.ndarray, " *steps"]


@pytree
class Heun(Memoryless):
    """Second order, two evaluations a step; a step to sigma = 0 is Euler's.

    Attributes:
        alpha: how far into the step the second evaluation is.
    """

    order: ClassVar[int] = 2
    alpha: float

    def tables(self, sigmas):
        """Return each step's `Table`."""
        # Not start + alpha (end - start), which misses the end at alpha = 1 by a last bit.
        level = (1 - self.alpha) * sigmas[:-1] + self.alpha * sigmas[1:]
        return Table(level, 0 * level + 1 / self.alpha)

    def step(self, denoise, x, interval, state, key):
        del key
        table = interval.table
        # The predictor of Euler's step, renoised in the same direction.
        guided, trial, half = two_stages(
            denoise,
            x,
            (interval.start, table.level),
            lambda guided: guided.denoised + table.level * direction(x, guided, interval.start),
        )
        first = direction(x, guided, interval.start)
        second = direction(trial, half, table.level)
        # Halved at last: both weights are 1 at alpha = 1, and round nothing.
        both = (2 - table.weight) * first + table.weight * second
        return x + (interval.end - interval.start) * both / 2, guided, state

    def at(self, step, sigmas):
        return Euler() if sigmas[step + 1] == 0 else self


@register("solver")
def heun(alpha: float = 1.0) -> Heun:
    """Return Heun's method; ``2 * steps - 1`` evaluations on a schedule that ends in 0.

    With d the direction at the start and d' the one that Euler's step leads to at
    ``sigma + alpha (sigma' - sigma)``:
    ``x' = x + (sigma' - sigma) ((1 - 1/(2 alpha)) d + d'/(2 alpha))``. A step to 0 is Euler's.

    Args:
        alpha: how far into the step the second evaluation is, a share of it in sigma: 1 is Heun's
            method, 1/2 the midpoint method, 2/3 Ralston's.

    Raises:
        ValueError: alpha outside (0, 1], or no plain number.

    Source: Karras et al., arXiv 2206.00364, algorithm 1 and its generalisation to any alpha.
    """
    plain("heun", alpha=alpha)
    if not 0 < alpha <= 1:
        raise ValueError(
            f"samplers.heun: need 0 < alpha <= 1, got {alpha}: the second evaluation is within the "
            f"step; 1 is Heun's method, 1/2 the midpoint method"
        )
    return Heun(float(alpha))
