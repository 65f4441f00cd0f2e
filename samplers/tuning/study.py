"""Searches over whole samplers: Optuna proposes, an objective judges, nothing is judged twice."""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..checks import whole
from ..solvers.per_step import PerStep
from ..solvers.solver import Solver
from .objectives import Objective

ENGINES = ("evolution", "tpe", "random")
# As published for AutoDiffusion: individuals of a generation, and how likely each part of one
# changes when an initial one is varied.
POPULATION = 50
MUTATION = 0.1
# Smaller populations where trials are few: those evolve for so many generations.
GENERATIONS = 20

# What a parameter may be: whole numbers, or names.
Space = Mapping[str, range | tuple]


class Candidate(NamedTuple):
    """A sampler to judge, and what makes two of them the same."""

    solver: Solver
    sigmas: np.ndarray
    identity: Hashable


class Result(NamedTuple):
    """What a search found.

    Attributes:
        solver: the best sampler's solver.
        sigmas: its schedule, ``[steps + 1]``.
        objective: what it was judged at.
        history: the best value after each trial, never rising.
        evaluations: how often the objective was asked; trials that propose a sampler again are
            answered from memory.
    """

    solver: Solver
    sigmas: np.ndarray
    objective: float
    history: np.ndarray
    evaluations: int

    def config(self, solver: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the section that `samplers.from_config` builds this sampler from.

        Args:
            solver: the solver's own section, such as ``{"name": "dpmpp"}``; may be left out for
                a solver of `per_step`.

        Raises:
            ValueError: a solver of another kind, and no section for it.
        """
        if solver is None:
            if not isinstance(self.solver, PerStep):
                raise ValueError(
                    "samplers.tuning: what a solver was made from is not known: pass its section, "
                    "config(solver={'name': ...})"
                )
            choices = [list(choice) for choice in self.solver.choices]
            solver = {"name": "per_step", "choices": choices}
        levels = [float(sigma) for sigma in self.sigmas]
        schedule = {"name": "explicit", "sigmas": levels, "final_zero": levels[-1] == 0}
        return {"solver": dict(solver), "schedule": schedule}


def minimise(
    objective: Objective,
    space: Space,
    build: Callable[[Mapping[str, Any]], Candidate],
    initial: Sequence[Mapping[str, Any]],
    *,
    trials: int,
    seed: int,
    engine: str,
    owner: str,
) -> Result:
    """Return the best of ``trials`` samplers, those in ``initial`` tried first.

    Args:
        objective: less is better; NaN is worse than anything.
        space: parameters by name.
        build: makes a sampler of parameters.
        initial: parameters of samplers to start from.
        trials: how many samplers are proposed.
        seed: of the proposals.
        engine: one of `ENGINES`.
        owner: in whose name to refuse.

    Raises:
        ValueError: no trials, or an unknown engine.
    """
    whole(owner, trials=trials)
    if engine not in ENGINES:
        raise ValueError(f"samplers.{owner}: engine is one of {', '.join(ENGINES)}, got {engine!r}")
    # Here, so that sampling alone does not wait for it.
    import optuna

    known: dict[Hashable, float] = {}
    values: list[float] = []
    best: Candidate | None = None
    lowest = math.inf
    population = max(4, min(POPULATION, int(trials) // GENERATIONS))
    proposals = {
        "evolution": lambda: optuna.samplers.NSGAIISampler(population_size=population, seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.IntDistribution(allowed[0], allowed[-1])
        if isinstance(allowed, range)
        else optuna.distributions.CategoricalDistribution(allowed)
        for name, allowed in space.items()
    }
    with _quiet():
        study = optuna.create_study(sampler=proposals[engine]())
    for parameters in [*initial, *_varied(space, initial, population // 2, seed)]:
        study.enqueue_trial(dict(parameters))
    for _ in range(int(trials)):
        trial = study.ask(distributions)
        candidate = build(trial.params)
        if candidate.identity not in known:
            value = float(objective(candidate.solver, candidate.sigmas))
            known[candidate.identity] = math.inf if math.isnan(value) else value
        value = known[candidate.identity]
        study.tell(trial, value)
        if best is None or value < lowest:
            best, lowest = candidate, value
        values.append(lowest)
    assert best is not None, "there was a trial"
    return Result(best.solver, best.sigmas, lowest, np.array(values), len(known))


def _varied(space: Space, initial: Sequence[Mapping], count: int, seed: int) -> list[dict]:
    """Return initial parameters with some drawn anew, at least one of each set."""
    draw, result = np.random.default_rng(seed), []
    for n in range(count if space and initial else 0):
        parameters = dict(initial[n % len(initial)])
        names = sorted(space)
        changed = draw.random(len(names)) < MUTATION
        changed[draw.integers(len(names))] = True
        for name in np.array(names)[changed]:
            allowed = space[str(name)]
            parameters[str(name)] = allowed[int(draw.integers(len(allowed)))]
        result.append(parameters)
    return result


@contextlib.contextmanager
def _quiet():
    """Drop what Optuna announces in this thread, and leave its logging as it is elsewhere."""
    logger, thread = logging.getLogger("optuna.storages._in_memory"), threading.get_ident()

    def wanted(record):
        return record.thread != thread or record.levelno > logging.INFO

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
