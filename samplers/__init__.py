"""Noise schedules, solvers and the one sampling loop. Knows guidance's protocol and no network."""

from ..guidance.draws import unit_noise
from .ancestral import dpmpp_2s_ancestral, euler_ancestral
from .config import from_config
from .deis import deis
from .dpmpp import dpmpp
from .euler import euler
from .feynman_kac import feynman_kac
from .heun import heun
from .ipndm import ipndm, ipndm_v
from .lms import lms
from .loop import sample
from .plan import Plan, plan
from .pndm import pndm
from .schedules import (
    align_your_steps,
    arctan,
    explicit,
    exponential,
    flow,
    iddpm,
    karras,
    linear,
    log_snr,
    polyexponential,
    ve,
    vp,
    vp_discrete,
)
from .solver import Solver
from .streams import LABELS, NOISE, STEPS, sample_keys
from .times import convert

__all__ = [
    "LABELS",
    "NOISE",
    "STEPS",
    "Plan",
    "Solver",
    "align_your_steps",
    "arctan",
    "convert",
    "deis",
    "dpmpp",
    "dpmpp_2s_ancestral",
    "euler",
    "euler_ancestral",
    "explicit",
    "exponential",
    "feynman_kac",
    "flow",
    "from_config",
    "heun",
    "iddpm",
    "ipndm",
    "ipndm_v",
    "karras",
    "linear",
    "lms",
    "log_snr",
    "plan",
    "pndm",
    "polyexponential",
    "sample",
    "sample_keys",
    "unit_noise",
    "ve",
    "vp",
    "vp_discrete",
]
