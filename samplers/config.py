"""Solvers, schedules and priors from dictionaries, as configs write them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import priors, schedules, solvers
from .priors import Prior
from .solvers.solver import Solver

SOLVERS: dict[str, Callable] = {name: getattr(solvers, name) for name in solvers.__all__}
SCHEDULES: dict[str, Callable] = {name: getattr(schedules, name) for name in schedules.__all__}


PRIORS: dict[str, Callable] = {
    name: getattr(priors, name) for name in ("gaussian", "pfgmpp", "teleport")
}

DEFAULT_PRIOR = {"name": "gaussian"}


class Sampler(NamedTuple):
    """What `sample` takes beside networks, rule and noise."""

    solver: Solver
    sigmas: np.ndarray
    prior: Prior


def from_config(section: Mapping[str, Any]) -> Sampler:
    """Build a sampler from ``{"solver": {...}, "schedule": {...}, "prior": {...}}``.

    Each part is ``{"name": constructor, argument: value, ...}``; without a prior it is Gaussian.

    Raises:
        ValueError: unknown name or argument, or numbers that the constructor refuses.
    """
    solver = _build("solver", SOLVERS, section["solver"])
    sigmas = _build("schedule", SCHEDULES, section["schedule"])
    return Sampler(solver, sigmas, _build("prior", PRIORS, section.get("prior") or DEFAULT_PRIOR))


def _build(kind: str, constructors: Mapping[str, Any], section: Mapping[str, Any]) -> Any:
    arguments = dict(section)
    name = arguments.pop("name", None)
    if name not in constructors:
        raise ValueError(
            f"sampler.{kind}.name {name!r} is not one of {', '.join(sorted(constructors))}"
        )
    try:
        return constructors[name](**arguments)
    except TypeError as error:
        raise ValueError(f"sampler.{kind} {name}: {error}") from error
