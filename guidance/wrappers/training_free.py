"""Training-free guidance, TFG: the space in which the gradient rules are points (2409.15761)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from ...core.registry import register
from ...core.rewards import Reward
from ..ascent import SCHEDULES, STEP, STRENGTHS, Ascent, weight_of
from ..measurements import climbed
from ..operators.operator import Operator
from ..protocol import PLAIN, Rule, require_finite


@register("rule", "2409.15761")
def tfg(
    reward: Reward | Operator,
    measurement: Any = None,
    rho: float | Array = 1.0,
    mu: float | Array = 0.25,
    *,
    spread: float | Array = 0.0,
    draws: int = 1,
    steps: int = 4,
    schedule: str = "constant",
    sigmas: Sequence[float] | None = None,
    strength: str = STEP,
    rule: Rule = PLAIN,
    remat: bool = False,
) -> Ascent:
    r"""Return training-free guidance: through the network, and steps of the prediction itself.

    After the solver's step ``x'`` has gained ``rho (1 + sigma^2) J^T grad r~(D) + delta``, where
    ``delta`` is where ``steps`` steps ``delta <- delta + mu grad r~(D + delta)`` lead, and ``r~``
    is the reward, smoothed over draws. A number that is 0 leaves its part out of the program: ``rho
    = 0`` is `mpgd`; ``mu = 0`` climbs through the network alone. ``strength`` chooses what rho
    multiplies: ``tilt`` makes `universal` (``mu = 0`` or not) and `lgd` (``spread = 1``) points of
    this space, ``residual`` `dps` for a reward, ``share`` `freedom`. The recurrence goes around the
    solver: `samplers.recur`.

    Equation:
        x' \leftarrow x' + \rho (1 + \sigma^2) J^\top \nabla \tilde r(G) + \delta, \quad \delta
        \leftarrow \delta + \mu \nabla \tilde r(G + \delta)

    When to use: To search over training-free rules, starting from small numbers.

    Args:
        reward: a differentiable reward; or an operator, with a measurement: then
            ``-|y - A x0|^2 / 2``.
        measurement: y, with an operator.
        rho: of the gradient through the network.
        mu: of the steps of the prediction.
        spread: of the draws, in multiples of ``sigma / sqrt(1 + sigma^2)``; the paper's sigma-bar.
        draws, steps: how many; 1 and 4 in the paper.
        schedule: of rho and mu: ``constant``, ``increase`` (with ``abar_t / abar_t'``, the paper's)
            or ``decrease`` (1 less that), of mean 1 over ``sigmas``.
        sigmas: the sampler's schedule, for those two.
        strength: ``step`` (the paper's), ``tilt``, ``residual``, ``share`` or ``noise``.
        rule: the guidance inside, which is differentiated too.
        remat: compute the network again on the way back, to save memory.

    Raises:
        ValueError: numbers that are not finite, rho and mu both 0, an unknown schedule or
            strength, a schedule without sigmas; a reward without gradient; when sampling, shapes
            that do not fit.

    Source: Ye et al., arXiv 2409.15761, algorithm 1.
    """
    require_finite("tfg", rho=rho, mu=mu, spread=spread)
    for name, value, known in (
        ("schedule", schedule, SCHEDULES),
        ("strength", strength, STRENGTHS),
    ):
        if value not in known:
            raise ValueError(f"guidance.tfg: {name} {value!r} is not one of {', '.join(known)}")
    if _zero(rho) and _zero(mu):
        raise ValueError("guidance.tfg: rho and mu are both 0: nothing is climbed; give one")
    if (schedule == "constant") != (sigmas is None):
        raise ValueError(
            f"guidance.tfg: sigmas belong to schedule='increase' and 'decrease', whose mean over "
            f"them is 1; got schedule={schedule!r} and sigmas={'given' if sigmas else None}"
        )
    count = checked_count("tfg", "draws", draws, 1)
    if _zero(spread) and count > 1:
        raise ValueError(
            f"guidance.tfg: draws={count} with spread=0 are {count} times the same: give a spread"
        )
    mean = None
    if sigmas is not None:
        levels = np.asarray(sigmas, np.float64)
        mean = float(np.mean(weight_of(schedule, levels[:-1], levels[1:])))
    return Ascent(
        rule,
        climbed("tfg", reward, measurement),
        None if _zero(rho) else rho,
        None if _zero(mu) else mu,
        None if _zero(spread) else spread,
        mean,
        owner="tfg",
        strength=strength,
        schedule=schedule,
        draws=count,
        steps=checked_count("tfg", "steps", steps, 1),
        remat=bool(remat),
    )


def _zero(number: Any) -> bool:
    """Return whether a number is 0 as it is written; arrays and traced numbers are not."""
    return isinstance(number, (int, float)) and number == 0


def checked_count(owner: str, name: str, value: Any, least: int) -> int:
    """Return a whole number of things, which is structure.

    Raises:
        ValueError: anything else, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(
            f"guidance.{owner}: {name} must be a whole number from {least}, got {value!r}"
        )
    return int(value)
