"""Loss-guided diffusion, LGD: the reward smoothed over what the prediction may mean."""

from typing import Any

from jaxtyping import Array

from ...core.registry import register
from ...core.rewards import Reward
from ..ascent import TILT, Ascent
from ..measurements import climbed
from ..operators.operator import Operator
from ..protocol import PLAIN, Rule, require_finite
from .training_free import checked_count


@register("rule")
def lgd(
    reward: Reward | Operator,
    measurement: Any = None,
    scale: float | Array = 1.0,
    *,
    draws: int = 4,
    rule: Rule = PLAIN,
    remat: bool = False,
) -> Ascent:
    r"""Return loss-guided diffusion, the tilt by a reward that is averaged over draws.

    ``D + scale sigma^2 J^T grad log mean_i exp r(D + s z_i)``, with ``s = sigma / sqrt(1 +
    sigma^2)`` the spread of the clean sample where the data is a unit Gaussian. Scale 1 is the tilt
    that the theory asks for as the number of draws grows, where that spread is the data's. (The
    public code of a later paper divides the gradient by the number of draws once more.)

    Equation:
        D = G + w \sigma^2 J^\top \nabla \log \frac1n \sum_i e^{r(G + s z_i)}, \quad s = \sigma /
        \sqrt{1 + \sigma^2}

    When to use: For rewards far from linear over the spread of what a noisy sample may become.

    Args:
        reward: a differentiable reward; or an operator, with a measurement: then
            ``-|y - A x0|^2 / 2``.
        measurement: y, with an operator.
        scale: 0 is off.
        draws: n; they cost a reward each, and no network.
        rule: the guidance inside, which is differentiated too.
        remat: compute the network again on the way back, to save memory.

    Raises:
        ValueError: a scale that is not finite, no draws, a reward without gradient; when sampling,
            shapes that do not fit.

    Source: Song et al., "Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation",
    ICML 2023, eq. 8.
    """
    require_finite("lgd", scale=scale)
    return Ascent(
        rule,
        climbed("lgd", reward, measurement),
        scale,
        spread=1.0,
        owner="lgd",
        strength=TILT,
        draws=checked_count("lgd", "draws", draws, 1),
        remat=bool(remat),
    )
