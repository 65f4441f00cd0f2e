"""Universal guidance: forward through the network, backward on the prediction (2302.07121)."""

from typing import Any

from jaxtyping import Array

from ...core.registry import register
from ...core.rewards import Reward
from ..ascent import TILT, Ascent
from ..measurements import climbed
from ..operators.operator import Operator
from ..protocol import PLAIN, Rule, require_finite
from .training_free import checked_count


@register("rule", "2302.07121")
def universal(
    reward: Reward | Operator,
    measurement: Any = None,
    scale: float | Array = 1.0,
    *,
    steps: int = 0,
    size: float | Array = 0.1,
    rule: Rule = PLAIN,
    remat: bool = False,
) -> Ascent:
    r"""Return universal guidance, ``D + scale sigma^2 J^T grad r(D) + delta``.

    ``delta`` is where ``steps`` steps up the reward lead from D, without the network (the paper's
    backward guidance). Scale 1 is the tilt by the reward that the theory asks for where
    ``E[r(x0) | x] = r(D)``: exact for a linear reward of Gaussian data. The paper's recurrence goes
    around the solver: `samplers.recur`.

    Equation:
        D = G + w \sigma^2 J^\top \nabla r(G) + \delta, \quad \delta \leftarrow \delta + \mu \nabla
        r(G + \delta)

    When to use: For any differentiable reward of clean images, such as a classifier or detector
    that has never seen noise.

    Args:
        reward: a differentiable reward; or an operator, with a measurement: then
            ``-|y - A x0|^2 / 2``.
        measurement: y, with an operator.
        scale: 0 is off.
        steps: of the prediction itself, 0 for none.
        size: of those steps, mu.
        rule: the guidance inside, which is differentiated too.
        remat: compute the network again on the way back, to save memory.

    Raises:
        ValueError: numbers that are not finite, steps below 0, a reward without gradient; when
            sampling, shapes that do not fit.

    Source: Bansal et al., arXiv 2302.07121, algorithm 1 (there for the noise prediction).
    """
    require_finite("universal", scale=scale, size=size)
    count = checked_count("universal", "steps", steps, 0)
    return Ascent(
        rule,
        climbed("universal", reward, measurement),
        scale,
        size if count else None,
        owner="universal",
        strength=TILT,
        steps=max(count, 1),
        remat=bool(remat),
    )
