"""Solvers by trial (USF, Liu et al., arXiv 2312.07243): how each step is taken, and where."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import Levels, checked
from ..solvers.per_step import MENU, MOST, PREDICTIONS, Choice, PerStep, per_step
from .objectives import Objective
from .study import Candidate, Result, Space, minimise
from .timestep_search import Subsets

# The first to be tried: DPM-Solver++(2M) with Taylor's difference.
FIRST = Choice()


def _space(sigmas: np.ndarray) -> Space:
    """Return what may be chosen in each step: nothing that would be the same as another."""
    space: dict[str, range | tuple] = {}
    steps = len(sigmas) - 1
    for i in range(steps):
        if sigmas[i + 1] == 0:
            continue
        space[f"prediction_{i:04d}"] = PREDICTIONS
        space[f"order_{i:04d}"] = range(1, min(i + 1, MOST) + 1)
        # A step to 0 forgets the state it starts from, corrected or not.
        if i + 1 < steps and sigmas[i + 2] != 0:
            space[f"corrector_{i:04d}"] = (False, True)
    return space


def _parameters(choices: Sequence[Choice], space: Space) -> dict[str, Any]:
    """Return choices as parameters: the nearest that a step has."""
    result = {}
    for i, choice in enumerate(choices):
        for field, value in choice._asdict().items():
            name = f"{field}_{i:04d}"
            if name in space:
                allowed = space[name]
                result[name] = value if value in allowed else allowed[-1]
    return result


def _solver(parameters: Mapping[str, Any], steps: int) -> PerStep:
    plain = Choice("data", 1, False)
    return per_step(
        {name: parameters.get(f"{name}_{i:04d}", value) for name, value in plain._asdict().items()}
        for i in range(steps)
    )


def strategies(
    objective: Objective,
    sigmas: Levels,
    *,
    candidates: np.ndarray | None = None,
    trials: int = 200,
    seed: int = 0,
    initial: PerStep | Iterable[PerStep] = (),
    engine: str = "tpe",
) -> Result:
    """Search for how to take each step of a schedule, and where steps should be.

    A step's prediction, order and corrector are those of `samplers.per_step`, so that all
    candidates run in one compiled program. Tries the initial solvers, all that take every step
    alike (DDIM, DPM-Solver, DPM-Solver++ and UniPC are among these twelve), solvers near them, and
    then what Optuna proposes; the result is the best of all, never worse than an initial one.
    Costs at most ``trials`` calls of the objective. Deterministic given the seed, as far as the
    objective is.

    Args:
        objective: ``(solver, sigmas) -> float``, less is better: `endpoint_error`, or a metric of
            one's own with the same noise in every call.
        sigmas: the schedule, or with ``candidates`` the one to start from.
        candidates: a fine schedule, to search the levels between its ends as well.
        trials: how many samplers are proposed, the twelve included.
        seed: of the proposals.
        initial: solvers of `samplers.per_step` to start from.
        engine: "tpe", "evolution" or "random", as in `timesteps`.

    Raises:
        ValueError: an initial solver of another kind or number of steps, candidates as
            `timesteps` refuses them, no trials, or an unknown engine.

    Source: Liu et al., arXiv 2312.07243; its predictor of scores is Optuna's here.
    """
    owner = "tuning.strategies"
    sigmas = checked(sigmas, owner)
    steps = len(sigmas) - 1
    given = [initial] if isinstance(initial, PerStep) else list(initial)
    for solver in given:
        if not isinstance(solver, PerStep) or len(solver.choices) != steps:
            raise ValueError(
                f"samplers.{owner}: initial must be solvers of samplers.per_step with "
                f"{steps} choices, one a step, got {solver!r}"
            )
    subsets = Subsets(owner, steps, sigmas if candidates is None else candidates, [sigmas])
    space = _space(sigmas)
    alike = sorted(MENU, key=lambda choice: choice != FIRST)
    starts = [solver.choices for solver in given] + [(choice,) * steps for choice in alike]

    def build(parameters):
        nodes, solver = subsets.nodes(parameters), _solver(parameters, steps)
        return Candidate(solver, subsets.levels[list(nodes)], (nodes, solver.entries))

    return minimise(
        objective,
        {**subsets.space, **space},
        build,
        [{**subsets.initial[0], **_parameters(start, space)} for start in starts],
        trials=trials,
        seed=seed,
        engine=engine,
        owner=owner,
    )
