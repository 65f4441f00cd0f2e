"""Solvers, schedules and priors from dictionaries, as configs write them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import UserError
from ..core.registry import registry
from ..core.text import shown
from .priors import Prior
from .solvers.solver import Solver

SOLVERS, SCHEDULES, PRIORS = registry("solver"), registry("schedule"), registry("prior")

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
        ValueError: no such dictionary, unknown name or argument, or numbers that the constructor
            refuses.
    """
    known = {"solver", "schedule", "prior"}
    fits = isinstance(section, Mapping) and known - {"prior"} <= section.keys() <= known
    if not fits:
        raise UserError(
            f"samplers.from_config: takes a dictionary of solver, schedule and perhaps prior, each "
            f"{{'name': ..., argument: value}}, got {shown(section)}"
        )
    return Sampler(
        SOLVERS.build(section["solver"], "sampler.solver"),
        SCHEDULES.build(section["schedule"], "sampler.schedule"),
        PRIORS.build(section.get("prior") or DEFAULT_PRIOR, "sampler.prior"),
    )
