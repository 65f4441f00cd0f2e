"""Noise schedules, solvers and the one sampling loop. Knows guidance's protocol and no network."""

from .ancestral import dpmpp_2s_ancestral, euler_ancestral
from .config import from_config
from .dpmpp import dpmpp
from .euler import euler
from .feynman_kac import feynman_kac
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
    "dpmpp",
    "dpmpp_2s_ancestral",
    "euler",
    "euler_ancestral",
    "feynman_kac",
    "from_config",
    "heun",
    "karras",
    "plan",
    "sample",
    "sample_keys",
    "unit_noise",
]
