"""Gamma-sampling of consistency trajectory models (Kim et al., arXiv 2310.02279)."""

from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.random import normal_like
from ...core.registry import register
from ..checks import plain, switches
from .solver import Memoryless, direction

# The noise level at which the public implementation ends its trajectories.
PUBLISHED_END = 0.002


class Jump(NamedTuple):
    """A step's constants.

    Attributes:
        to: the noise level of the network's jump.
        noise: standard deviation of what is added there.
    """

    to: Float[Array | np.ndarray, " *steps"]
    noise: Float[Array | np.ndarray, " *steps"]


@pytree
class Ctm(Memoryless):
    """Jump along the flow to less noise than asked for, then fresh noise; one evaluation a step.

    Attributes:
        gamma: share of fresh noise.
        least: the noise level from which others are counted.
        scale: the guidance scale that the network takes; None for one that takes none.
    """

    estimate: ClassVar[str] = "flow_map"
    # With an ordinary denoiser for the network and gamma = 0: Euler's.
    order: ClassVar[int] = 1
    gamma: float
    least: float
    scale: float | None = None

    def tables(self, sigmas):
        """Return each step's `Jump`."""
        end = sigmas[1:]
        # 1 - sqrt(1 - gamma^2), of the height above `least`; exactly 0 at 0 and 1 at 1.
        below = self.gamma**2 / (1 + np.sqrt(1 - self.gamma**2)) * np.maximum(end - self.least, 0)
        return Jump(end - below, np.sqrt(below * (2 * end - below)))

    def step(self, denoise, x, interval, state, key):
        jump = interval.table
        guided = denoise(x, interval.start, jump.to, scale=self.scale)
        x = guided.denoised + jump.to * direction(x, guided, interval.start)
        return x + jump.noise * normal_like(key, x), guided, state


@register("solver")
def ctm(gamma: float = 0.0, *, as_published: bool = False, scale: float | None = None) -> Ctm:
    """Return gamma-sampling, for a network g that is asked for jumps: ``g(x, sigma, c, to=s)``.

    ``x' = G + gamma sigma' z``, where ``G = (s/sigma) x + (1 - s/sigma) g(x, sigma, s)`` is the
    flow from sigma to ``s = sqrt(1 - gamma^2) sigma'``. One evaluation a step; a step to 0 returns
    ``g(x, sigma, 0)``.

    Args:
        gamma: 0 jumps along the flow without noise; 1 jumps to the data and renoises, as
            `consistency` does.
        as_published: as the public implementation, count noise levels from 0.002:
            ``s = sqrt(1 - gamma^2) (sigma' - 0.002) + 0.002``, and noise up to sigma' from there.
            Its trajectories end at the last noise level above 0.
        scale: the guidance scale, of a network that takes it as an input (distilled from a guided
            teacher); 1 is off. None leaves it to the network.

    Raises:
        ValueError: gamma outside [0, 1]; when sampling, a network without an argument ``to``, or
            one that takes no scale, or was not trained at this one.

    Source: Kim et al., arXiv 2310.02279, gamma-sampling.
    """
    plain("ctm", gamma=gamma, **({} if scale is None else {"scale": scale}))
    if not 0 <= gamma <= 1:
        raise ValueError(f"samplers.ctm: need 0 <= gamma <= 1, got {gamma}; 0 adds no noise")
    switches("ctm", as_published=as_published)
    least = PUBLISHED_END if as_published else 0.0
    return Ctm(float(gamma), least, None if scale is None else float(scale))
