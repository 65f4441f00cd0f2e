"""Schedules by trial (AutoDiffusion, Li et al., arXiv 2309.10438)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.calls import takes_parts
from ..checks import checked
from ..solvers.euler import euler
from ..solvers.solver import Solver
from .nodes import enough
from .objectives import Objective
from .study import Candidate, Result, Space, minimise

# Levels this much closer to an initial one than to each other are that one.
SAME = 1e-6


class Subsets:
    """Schedules that are a part of a fine one, as whole numbers that any search may draw.

    The numbers, sorted, say how many candidates are left out before each level, so that every
    draw is a schedule of different levels in falling order.
    """

    def __init__(
        self,
        owner: str,
        steps: int,
        candidates: np.ndarray,
        initial: Sequence[np.ndarray] | np.ndarray | None,
    ):
        """Put the initial schedules' levels among the candidates.

        Raises:
            ValueError: in the name of ``owner``: more steps than candidates, initial schedules
                of other lengths or ends.
        """
        levels = checked(candidates, owner)
        enough(owner, steps, levels)
        self.steps = int(steps)
        schedules = _listed(owner, initial)
        for sigmas in schedules:
            if len(sigmas) != steps + 1 or not np.array_equal(sigmas[[0, -1]], levels[[0, -1]]):
                raise ValueError(
                    f"samplers.{owner}: an initial schedule must have {steps} steps between the "
                    f"ends of the candidates, {levels[0]:g} and {levels[-1]:g}, got {sigmas}"
                )
            distinct = ~np.isclose(levels[:, None], sigmas, rtol=SAME, atol=0).any(axis=1)
            levels = np.sort(np.append(levels[distinct], sigmas))[::-1]
        self.levels = levels
        even = np.round(np.linspace(0, len(levels) - 1, self.steps + 1))
        # An initial schedule's level may have been taken for one of another's.
        nearest = [np.abs(levels - sigmas[:, None]).argmin(axis=1) for sigmas in schedules]
        self.initial = [self._numbers(nodes) for nodes in nearest or [even]]

    @property
    def space(self) -> Space:
        """The numbers by name: of candidates left out, of all that can be."""
        spare = len(self.levels) - 1 - self.steps
        return {f"node_{k:04d}": range(spare + 1) for k in range(1, self.steps)}

    def nodes(self, parameters: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the places of a schedule's levels among the candidates."""
        numbers = sorted(parameters[name] for name in self.space)
        inner = [number + k for k, number in enumerate(numbers, start=1)]
        return 0, *inner, len(self.levels) - 1

    def _numbers(self, nodes: np.ndarray) -> dict[str, int]:
        return {
            name: int(node) - k
            for k, (name, node) in enumerate(zip(self.space, nodes[1:-1], strict=True), 1)
        }


def _listed(owner: str, initial) -> list[np.ndarray]:
    if initial is None:
        return []
    several = len(initial) and np.ndim(initial[0]) > 0
    return [checked(sigmas, owner) for sigmas in (initial if several else [initial])]


@takes_parts("samplers.tuning")
def timesteps(
    objective: Objective,
    steps: int,
    *,
    candidates: np.ndarray,
    solver: Solver | None = None,
    trials: int = 200,
    seed: int = 0,
    initial: Sequence[np.ndarray] | np.ndarray | None = None,
    engine: str = "evolution",
) -> Result:
    """Search for the part of a fine schedule on which a solver does best.

    Tries the initial schedules, schedules near them, and then what Optuna proposes; the result is
    the best of all, never worse than an initial one. Costs at most ``trials`` calls of the
    objective: a schedule proposed again is not judged again. Deterministic given the seed, as far
    as the objective is.

    Args:
        objective: ``(solver, sigmas) -> float``, less is better: `endpoint_error`, or a metric of
            one's own with the same noise in every call.
        steps: number of steps.
        candidates: the fine schedule, decreasing; its ends are kept.
        solver: what the schedule is for, Euler's method unless said otherwise.
        trials: how many schedules are proposed, initial ones included.
        seed: of the proposals.
        initial: a schedule to start from, or several; their levels join the candidates. Evenly
            spread candidates unless said otherwise.
        engine: "evolution" (selection, crossover and mutation, as published), "tpe" (a model of
            good schedules: fewer trials, slower between them) or "random".

    Raises:
        ValueError: more steps than candidates, initial schedules of other lengths or ends, no
            trials, or an unknown engine.

    Source: Li et al., arXiv 2309.10438.
    """
    owner = "tuning.timesteps"
    subsets = Subsets(owner, steps, candidates, initial)
    solver = euler() if solver is None else solver

    def build(parameters):
        nodes = subsets.nodes(parameters)
        return Candidate(solver, subsets.levels[list(nodes)], nodes)

    return minimise(
        objective,
        subsets.space,
        build,
        subsets.initial,
        trials=trials,
        seed=seed,
        engine=engine,
        owner=owner,
    )
