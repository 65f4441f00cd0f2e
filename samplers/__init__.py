"""Noise schedules, solvers and the one sampling loop. Knows guidance's protocol and no network."""

from ..core.noise_levels import convert
from ..core.random import LABELS, NOISE, STEPS, root_key, sample_keys, unit_noise
from . import tuning
from .config import Sampler, from_config
from .diffusers_schedulers import like_diffusers
from .gaussian_fit import GaussianFit, fit_gaussian
from .inversion import invert
from .likelihood import bits_per_dimension, log_likelihood
from .loop import sample
from .particles.decoding import svdd
from .particles.feynman_kac import feynman_kac
from .particles.steering import steer
from .particles.twisting import das, twisted
from .plans import Plan, plan
from .priors import Prior, gaussian, pfgmpp, pfgmpp_kernel, teleport, variance_preserving
from .schedules.diffusion_time import flow, iddpm, vp, vp_discrete
from .schedules.published import align_your_steps, explicit
from .schedules.spaced import arctan, exponential, karras, linear, log_snr, polyexponential, ve
from .solvers.ancestral import ancestral, dpm_2_ancestral, dpmpp_2s_ancestral
from .solvers.consistency import consistency
from .solvers.ctm import ctm
from .solvers.deis import deis
from .solvers.dpm_solver import dpm_2, dpm_solver
from .solvers.dpm_solver_v3 import dpm_solver_v3
from .solvers.dpmpp import dpmpp
from .solvers.dpmpp_sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from .solvers.edm_churn import edm_churn
from .solvers.euler import euler
from .solvers.euler_maruyama import euler_maruyama
from .solvers.evodiff import evodiff
from .solvers.heun import heun
from .solvers.ipndm import ipndm, ipndm_v
from .solvers.lms import lms
from .solvers.per_step import per_step
from .solvers.pndm import pndm
from .solvers.sa_solver import sa_solver
from .solvers.solver import Solver
from .solvers.statistics import Statistics
from .solvers.time_travel import recur, repaint
from .solvers.unipc import unipc
from .tuning.calibration import calibrate

__all__ = [
    "LABELS",
    "NOISE",
    "STEPS",
    "GaussianFit",
    "Plan",
    "Prior",
    "Sampler",
    "Solver",
    "Statistics",
    "align_your_steps",
    "ancestral",
    "arctan",
    "bits_per_dimension",
    "calibrate",
    "consistency",
    "convert",
    "ctm",
    "das",
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
    "explicit",
    "exponential",
    "feynman_kac",
    "fit_gaussian",
    "flow",
    "from_config",
    "gaussian",
    "heun",
    "iddpm",
    "invert",
    "ipndm",
    "ipndm_v",
    "karras",
    "like_diffusers",
    "linear",
    "lms",
    "log_likelihood",
    "log_snr",
    "per_step",
    "pfgmpp",
    "pfgmpp_kernel",
    "plan",
    "pndm",
    "polyexponential",
    "recur",
    "repaint",
    "root_key",
    "sa_solver",
    "sample",
    "sample_keys",
    "steer",
    "svdd",
    "teleport",
    "tuning",
    "twisted",
    "unipc",
    "unit_noise",
    "variance_preserving",
    "ve",
    "vp",
    "vp_discrete",
]
