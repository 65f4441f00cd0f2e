"""Solvers and schedules from dictionaries, as configs write them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import schedules
from .ancestral import dpmpp_2s_ancestral, euler_ancestral
from .deis import deis
from .dpmpp import dpmpp
from .euler import euler
from .feynman_kac import feynman_kac
from .heun import heun
from .ipndm import ipndm, ipndm_v
from .lms import lms
from .pndm import pndm
from .solver import Solver

SOLVERS = {
    "deis": deis,
    "dpmpp": dpmpp,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "feynman_kac": feynman_kac,
    "heun": heun,
    "ipndm": ipndm,
    "ipndm_v": ipndm_v,
    "lms": lms,
    "pndm": pndm,
}
SCHEDULES = {
    "align_your_steps": schedules.align_your_steps,
    "arctan": schedules.arctan,
    "explicit": schedules.explicit,
    "exponential": schedules.exponential,
    "flow": schedules.flow,
    "iddpm": schedules.iddpm,
    "karras": schedules.karras,
    "linear": schedules.linear,
    "log_snr": schedules.log_snr,
    "polyexponential": schedules.polyexponential,
    "ve": schedules.ve,
    "vp": schedules.vp,
    "vp_discrete": schedules.vp_discrete,
}


def from_config(section: Mapping[str, Any]) -> tuple[Solver, np.ndarray]:
    """Build a solver and a schedule from ``{"solver": {...}, "schedule": {...}}``.

    Each part is ``{"name": constructor, argument: value, ...}``.

    Raises:
        ValueError: unknown name or argument, or numbers that the constructor refuses.
    """
    solver = _build("solver", SOLVERS, section["solver"])
    return solver, _build("schedule", SCHEDULES, section["schedule"])


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
