"""Diffusion posterior sampling, DPS: down the norm of the residual (Chung et al., 2209.14687)."""

from typing import Any

from jaxtyping import Array

from ...core.registry import register
from ...core.rewards import Reward
from ..ascent import RESIDUAL, Ascent
from ..measurements import NORM, climbed
from ..operators.operator import Operator
from ..protocol import PLAIN, Rule, require_finite


@register("rule", "2209.14687")
def dps(
    operator: Operator | Reward,
    measurement: Any = None,
    scale: float | Array = 0.3,
    *,
    rule: Rule = PLAIN,
    remat: bool = False,
) -> Ascent:
    r"""Return diffusion posterior sampling, ``x'`` moved by ``-zeta grad_x |y - A D(x)|``.

    The move comes after the solver's step, in the units of the variance-preserving process:
    ``x' <- x' - zeta sqrt((1 + sigma^2)(1 + sigma'^2)) grad_x |y - A D|``, the norm of each
    sample's own residual (not its square; the published code takes one norm of the whole batch). A
    reward is climbed as it is. It is no sampler of the posterior: of two values with a correlation
    of 0.8, the first measured as 1.5, it puts the second at 1.45 where the posterior has 1.2
    (tests/guidance/test_inverse_oracles.py).

    Equation:
        x' \leftarrow x' - \zeta \sqrt{(1 + \sigma^2)(1 + \sigma'^2)} \nabla_x \| y - A D(x) \|

    When to use: For measurements without a pseudo-inverse at hand, where many ancestral steps and
    a backward pass at each are affordable.

    Args:
        operator: A, of `guidance.operators`; or a reward, without a measurement.
        measurement: y, one for all samples or one a sample ``[batch, ...]``.
        scale: zeta; 0 is off. 0.3 for blur and 0.5 for inpainting in the paper's code, of 1000
            steps.
        rule: the guidance inside, which is differentiated too.
        remat: compute the network again on the way back, to save memory.

    Raises:
        ValueError: a scale or measurement that is not finite, a reward without gradient; when
            sampling, shapes that do not fit.

    Source: Chung et al., arXiv 2209.14687, algorithm 1.
    """
    require_finite("dps", scale=scale)
    goal = climbed("dps", operator, measurement, NORM)
    return Ascent(rule, goal, scale, owner="dps", strength=RESIDUAL, remat=bool(remat))
