"""Searches for noise schedules and for solvers, on any denoiser and any rule.

From the cheapest: `boss` and `gits` place steps by dynamic programming over one fine trajectory,
`align` by the error of a frozen prediction along noised data; `timesteps` and `strategies` try
whole samplers on an objective of one's own.
"""

from .align import align
from .boss import boss
from .gits import gits, select
from .objectives import endpoint_error
from .strategies import strategies
from .study import Result
from .timesteps import timesteps
from .trajectories import Trajectories, teacher

__all__ = [
    "Result",
    "Trajectories",
    "align",
    "boss",
    "endpoint_error",
    "gits",
    "select",
    "strategies",
    "teacher",
    "timesteps",
]
