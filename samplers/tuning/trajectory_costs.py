"""Schedules from the geometry of trajectories (Chen et al., arXiv 2405.11326)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ...core.calls import takes_parts
from ...guidance.protocol import Rule
from ..checks import Keys, Levels
from ..networks import Networks
from ..schedules.spaced import karras
from ..solvers.ipndm import ipndm
from ..solvers.solver import Solver
from .jumps import jump_costs
from .nodes import cheapest
from .trajectories import Trajectories, teacher

# Published: levels of the teacher's schedule.
LEVELS = 61


def select(
    trajectories: Trajectories,
    steps: int,
    *,
    cost: str = "l2",
    gamma: float = 1.0,
    owner: str = "tuning.select",
) -> np.ndarray:
    """Return the part of a fine schedule whose Euler jumps cost least.

    The cost of a jump is the error that it makes from the fine trajectory on, not the error that
    it has at the end. No evaluations: trajectories serve every number of steps and every cost.

    Args:
        trajectories: of `teacher`.
        steps: number of steps.
        cost: "l2", "l1", "dev" or "flow", see `boss` and `gits`.
        gamma: discount of later jumps; above 1 they count more.
        owner: in whose name to refuse.

    Returns:
        float64 ``[steps + 1]``, decreasing between the ends of the fine schedule.

    Raises:
        ValueError: more steps than the fine schedule has, a cost that is none of these, gamma
            not above 0, or trajectories that are not finite.
    """
    costs = jump_costs(trajectories, cost)
    return trajectories.sigmas[cheapest(costs, steps, gamma, owner=owner)]


@takes_parts("samplers.tuning")
def gits(
    denoise: Callable | Networks,
    rule: Rule,
    steps: int,
    noise: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    cost: str = "dev",
    gamma: float = 1.15,
    fine: Levels | None = None,
    solver: Solver | None = None,
) -> np.ndarray:
    """Return the schedule whose Euler jumps leave a fine trajectory least, late jumps first.

    ``V_k(i) = min_j c_ij + gamma V_{k-1}(j)`` over the levels of the fine schedule, by dynamic
    programming. Costs one trajectory a sample, 60 evaluations of the rule as published;
    `teacher` and `select` share it among numbers of steps.

    Args:
        denoise, rule, noise, condition, key: as `samplers.sample` takes them; 256 samples
            published.
        steps: number of steps.
        cost: of a jump from level i to j: "l2" and "l1" are norms of the error; "dev" is the
            arrival's distance from the line between the trajectory's ends, less the teacher's
            own; "flow" is that of `boss`.
        gamma: 1 is the sum of costs; 1.15 published, with "dev".
        fine: the teacher's schedule; 61 of `karras`' levels, not ending in 0, unless said
            otherwise.
        solver: the teacher's, ``ipndm(4)`` unless said otherwise.

    Returns:
        float64 ``[steps + 1]``, decreasing, with the ends of ``fine``: 0 if that ends there.

    Raises:
        ValueError: as `select` and `teacher`.

    Source: Chen et al., arXiv 2405.11326.
    """
    fine = karras(LEVELS, final_zero=False) if fine is None else fine
    solver = ipndm(4) if solver is None else solver
    found = teacher(denoise, rule, noise, condition, key, fine=fine, solver=solver)
    return select(found, steps, cost=cost, gamma=gamma, owner="tuning.gits")
