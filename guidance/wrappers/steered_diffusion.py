"""Steered diffusion: the prediction overwritten by the measurement (Nair et al., 2310.00224)."""

from typing import Any

from jaxtyping import Array

from ...core.part_types import PART_TYPES
from ...core.pytrees import pytree
from ...core.registry import register
from ...core.rewards import Reward
from ..ascent import NOISE, Ascent
from ..measurements import Measurement, climbed, measured
from ..operators.operator import Operator
from ..protocol import PLAIN, Guided, Rule, per_sample, require_finite
from .wrapper import Wrapper


@pytree
class Overwrite(Wrapper):
    """A rule's prediction with the measurement put in, its noise direction changed with it."""

    rule: Rule
    measurement: Measurement
    scale: float | Array

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        guided, state = self.rule.apply(evaluate, x, sigma, state, key)
        scale = per_sample("scale", self.scale, x)
        shift = scale * self.measurement.correction(guided.denoised)
        return Guided(guided.denoised + shift, None, guided.info), state


@register("rule", "2310.00224")
def steered(
    reward: Reward | Operator,
    measurement: Any = None,
    scale: float | Array = 1.0,
    *,
    rule: Rule = PLAIN,
    remat: bool = False,
) -> Overwrite | Ascent:
    r"""Return steered diffusion: the prediction overwritten by the measurement, or up a reward.

    With an operator ``D + scale A^+ (y - A D)``, from which the noise direction is taken: unlike in
    `ddnm`, and so with a bias that shorter steps do not mend. With a reward ``D + scale sqrt(1 +
    sigma^2) sigma'/sqrt(1 + sigma'^2) J^T grad r(D)``. The paper's inner repeats go around the
    solver: `samplers.recur`. (Its code adds noise of standard deviation beta for sqrt(beta) there,
    and down- and upsamples by bicubic filters, which are no projection.)

    Equation:
        D = G + w A^+ (y - A G) \quad \text{or} \quad D = G + w \frac{\sigma' \sqrt{1 +
        \sigma^2}}{\sqrt{1 + \sigma'^2}} J^\top \nabla r(G)

    When to use: To compare with; for the same cost `ddnm` has less bias.

    Args:
        reward: a differentiable reward; or an operator, with a measurement.
        measurement: y, with an operator.
        scale: 0 is off; 1 puts the measurement in exactly.
        rule: the guidance inside; with a reward it is differentiated too.
        remat: with a reward: compute the network again on the way back, to save memory.

    Raises:
        ValueError: a scale that is not finite, a reward without gradient, remat with an operator;
            when sampling, shapes that do not fit.

    Source: Nair et al., arXiv 2310.00224, algorithm 1.
    """
    require_finite("steered", scale=scale)
    if PART_TYPES[Operator].accepts(reward) and measurement is not None:
        if remat:
            raise ValueError(
                "guidance.steered: remat belongs to a reward; with an operator nothing is "
                "differentiated: leave it out"
            )
        return Overwrite(rule, measured("steered", reward, measurement), scale)  # type: ignore[arg-type]
    goal = climbed("steered", reward, measurement)
    return Ascent(rule, goal, scale, owner="steered", strength=NOISE, remat=bool(remat))
