"""Solvers: ways to follow dx/dsigma = (x - D)/sigma down a schedule, one family a file."""

from ..particles.feynman_kac import feynman_kac
from .ancestral import ancestral, dpm_2_ancestral, dpmpp_2s_ancestral
from .consistency import consistency
from .ctm import ctm
from .deis import deis
from .dpm_solver import dpm_2, dpm_solver
from .dpm_solver_v3 import dpm_solver_v3
from .dpmpp import dpmpp
from .dpmpp_sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from .edm_churn import edm_churn
from .euler import euler
from .euler_maruyama import euler_maruyama
from .evodiff import evodiff
from .heun import heun
from .ipndm import ipndm, ipndm_v
from .lms import lms
from .per_step import per_step
from .pndm import pndm
from .sa_solver import sa_solver
from .unipc import unipc

# Constructors, and nothing else: configs name these.
__all__ = [
    "ancestral",
    "consistency",
    "ctm",
    "deis",
    "dpm_2",
    "dpm_2_ancestral",
    "dpm_solver",
    "dpm_solver_v3",
    "dpmpp",
    "dpmpp_2m_sde",
    "dpmpp_2s_ancestral",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "edm_churn",
    "euler",
    "euler_maruyama",
    "evodiff",
    "feynman_kac",
    "heun",
    "ipndm",
    "ipndm_v",
    "lms",
    "per_step",
    "pndm",
    "sa_solver",
    "unipc",
]
