"""Noise schedules, solvers and the one sampling loop. Knows guidance's protocol and no network."""

from .config import from_config
from .euler import euler
from .heun import heun
from .loop import sample
from .plan import Plan, plan
from .schedules import karras
from .solver import Solver
from .streams import LABELS, NOISE, STEPS, sample_keys, unit_noise

__all__ = [
    "LABELS",
    "NOISE",
    "STEPS",
    "Plan",
    "Solver",
    "euler",
    "from_config",
    "heun",
    "karras",
    "plan",
    "sample",
    "sample_keys",
    "unit_noise",
]
