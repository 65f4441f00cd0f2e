"""FreeDoM: a gradient step of a length that is a share of the noise (Yu et al., 2303.09833)."""

from typing import Any

from jaxtyping import Array

from ...core.registry import register
from ...core.rewards import Reward
from ..ascent import SHARE, Ascent
from ..measurements import climbed
from ..operators.operator import Operator
from ..protocol import PLAIN, Rule, require_finite


@register("rule", "2303.09833")
def freedom(
    reward: Reward | Operator,
    measurement: Any = None,
    scale: float | Array = 0.02,
    *,
    rule: Rule = PLAIN,
    remat: bool = False,
) -> Ascent:
    r"""Return FreeDoM: a step up a reward, as long as a share of the predicted noise.

    ``D + scale |x - D| g / |g|`` with ``g = J^T grad r(D)``, norms of each sample: with ancestral
    sampling it is the paper's step of the ``rms(rho g) = 0.02 c1 sigma rms(eps)`` exactly. The
    length does not shrink as the reward is reached. The paper's recurrence in the middle of the
    noise levels goes around the solver: `samplers.recur`.

    Equation:
        D = G + w \|x - G\| \frac{g}{\|g\|}, \quad g = J^\top \nabla r(G)

    When to use: Where the size of a reward's gradient says nothing, as with distances between
    embeddings of faces, styles or texts.

    Args:
        reward: a differentiable reward; or an operator, with a measurement: then
            ``-|y - A x0|^2 / 2``.
        measurement: y, with an operator.
        scale: share of the noise; 0 is off, 0.02 in the paper's code for CLIP.
        rule: the guidance inside, which is differentiated too.
        remat: compute the network again on the way back, to save memory.

    Raises:
        ValueError: a scale that is not finite, a reward without gradient; when sampling, shapes
            that do not fit.

    Source: Yu et al., arXiv 2303.09833, algorithm 1, its step length as in the code.
    """
    require_finite("freedom", scale=scale)
    goal = climbed("freedom", reward, measurement)
    return Ascent(rule, goal, scale, owner="freedom", strength=SHARE, remat=bool(remat))
