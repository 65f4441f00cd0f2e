"""Noise schedules: decreasing sigmas as float64 host arrays, ending in 0 unless asked otherwise.

Every constructor takes the number of noise levels to evaluate first, and ``final_zero`` last.
"""

from .diffusion_time import flow, iddpm, vp, vp_discrete
from .published import align_your_steps, explicit
from .spaced import arctan, exponential, karras, linear, log_snr, polyexponential, ve

# Constructors, and nothing else: configs name these.
__all__ = [
    "align_your_steps",
    "arctan",
    "explicit",
    "exponential",
    "flow",
    "iddpm",
    "karras",
    "linear",
    "log_snr",
    "polyexponential",
    "ve",
    "vp",
    "vp_discrete",
]
