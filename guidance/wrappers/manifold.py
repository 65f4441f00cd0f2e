"""Manifold-preserving guidance, MPGD: up a reward without the network (He et al., 2311.16424)."""

from typing import Any

from jaxtyping import Array

from ...core.registry import register
from ...core.rewards import Reward
from ..ascent import Ascent
from ..measurements import climbed
from ..operators.operator import Operator
from ..protocol import PLAIN, Rule, require_finite
from .training_free import checked_count


@register("rule", "2311.16424")
def mpgd(
    reward: Reward | Operator,
    measurement: Any = None,
    scale: float | Array = 1.0,
    *,
    steps: int = 1,
    rule: Rule = PLAIN,
) -> Ascent:
    r"""Return manifold-preserving guidance, ``D + scale grad r(D)``; the noise direction stays.

    The network is not differentiated: a step costs a forward pass and the reward's gradient. A
    scale above 2 over the reward's curvature (1 over the largest squared singular value of an
    operator) overshoots.

    Equation:
        D = G + w \nabla r(G), \quad x' = D + \sigma' (x - G) / \sigma

    When to use: Where a backward pass through the network is too slow or too large; on latents,
    and with few steps.

    Args:
        reward: a differentiable reward; or an operator, with a measurement: then
            ``-|y - A x0|^2 / 2``.
        measurement: y, with an operator.
        scale: length of a step, 0 is off.
        steps: how many at each prediction.
        rule: the guidance inside.

    Raises:
        ValueError: a scale that is not finite, no steps, a reward without gradient; when sampling,
            shapes that do not fit.

    Source: He et al., arXiv 2311.16424, algorithm 1 without an autoencoder's projection.
    """
    require_finite("mpgd", scale=scale)
    goal = climbed("mpgd", reward, measurement)
    count = checked_count("mpgd", "steps", steps, 1)
    return Ascent(rule, goal, None, scale, owner="mpgd", steps=count)
