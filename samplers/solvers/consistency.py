"""Multistep consistency sampling (Song et al., arXiv 2303.01469)."""

from typing import ClassVar

import numpy as np

from ...core.pytrees import pytree
from ...core.random import normal_like
from ...core.registry import register
from ..checks import plain
from .solver import Memoryless


@pytree
class Consistency(Memoryless):
    """Jump to the data and back to the next noise level; one evaluation a step.

    Attributes:
        sigma_min: the noise level that the network jumps to.
        scale: the guidance scale that the network takes; None for one that takes none.
    """

    estimate: ClassVar[str] = "consistency"
    # What more steps change is not the error of a solver: the jump has none.
    order: ClassVar[int] = 0
    sigma_min: float
    scale: float | None = None

    def tables(self, sigmas):
        """Return the standard deviation of each step's noise."""
        end = sigmas[1:]
        return np.sqrt(np.maximum(end - self.sigma_min, 0) * (end + self.sigma_min))

    def step(self, denoise, x, interval, state, key):
        guided = denoise(x, interval.start, scale=self.scale)
        x = guided.denoised + interval.table * normal_like(key, x)
        return x, guided, state


@register("solver")
def consistency(sigma_min: float = 0.002, *, scale: float | None = None) -> Consistency:
    """Return multistep consistency sampling, for a denoiser that is a consistency function f.

    ``x' = f(x, sigma) + sqrt(sigma'^2 - sigma_min^2) z``, without noise at and below sigma_min.
    A schedule of n noise levels that ends in 0 makes n evaluations; one level is one jump from
    noise to data. An ordinary denoiser in the place of f would give blurred samples, and is
    refused where it says what it is.

    Args:
        sigma_min: the noise level at which f leaves x as it is.
        scale: the guidance scale, of a network that takes it as an input (distilled from a guided
            teacher); 1 is off. None leaves it to the network.

    Raises:
        ValueError: sigma_min negative, or a number that is not finite; when sampling, a network
            that is no consistency function, takes no scale, or was not trained at this one.

    Source: Song et al., arXiv 2303.01469, algorithm 1.
    """
    plain("consistency", sigma_min=sigma_min, **({} if scale is None else {"scale": scale}))
    if sigma_min < 0:
        raise ValueError(
            f"samplers.consistency: need sigma_min >= 0, got {sigma_min}; 0.002 is what the "
            f"published networks were trained to"
        )
    return Consistency(float(sigma_min), None if scale is None else float(scale))
