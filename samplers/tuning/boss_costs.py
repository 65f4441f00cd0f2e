"""Bellman-optimal step sizes (Nguyen et al., arXiv 2312.16414)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ...core.calls import takes_parts
from ...guidance.protocol import Rule
from ..checks import Keys, Levels
from ..networks import Networks
from ..schedules.diffusion_time import flow
from ..solvers.euler import euler
from ..solvers.solver import Solver
from .trajectories import teacher
from .trajectory_costs import select

# Published: steps of the fine trajectory.
STEPS = 100


@takes_parts("samplers.tuning")
def boss(
    denoise: Callable | Networks,
    rule: Rule,
    steps: int,
    noise: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    fine: Levels | None = None,
    solver: Solver | None = None,
) -> np.ndarray:
    """Return the schedule whose Euler jumps leave a fine trajectory least.

    Minimises ``sum c_ij``, ``c_ij = E ||y_j - (y_i + (t_j - t_i) v_i)||^2`` with ``y = (1 - t) x``
    the state of the linear path, of velocity v, at time ``t = sigma / (1 + sigma)``, by dynamic
    programming over the levels of the fine schedule. Costs one trajectory a sample, 100
    evaluations of the rule as published; `teacher` and `select` share it among numbers of steps.

    Args:
        denoise, rule, noise, condition, key: as `samplers.sample` takes them; 100 samples
            published.
        steps: number of steps.
        fine: schedule of the trajectory; 100 even steps of flow time, `flow`, unless said
            otherwise. A network that knows no noise up to its sigma 999 needs another:
            ``flow(100, sigma_max=80.0)``.
        solver: of the trajectory, Euler's method unless said otherwise.

    Returns:
        float64 ``[steps + 1]``, decreasing, with the ends of ``fine``: 0 if that ends there.

    Raises:
        ValueError: more steps than the fine schedule has, or as `teacher`.

    Source: Nguyen et al., arXiv 2312.16414.
    """
    fine = flow(STEPS) if fine is None else fine
    solver = euler() if solver is None else solver
    found = teacher(denoise, rule, noise, condition, key, fine=fine, solver=solver)
    return select(found, steps, cost="flow", owner="tuning.boss")
