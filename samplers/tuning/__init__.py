"""Searches for noise schedules and for solvers, on any denoiser and any rule.

From the cheapest: `boss` and `gits` place steps by dynamic programming over one fine trajectory,
`align` by the error of a frozen prediction along noised data; `timesteps` and `strategies` try
whole samplers on an objective of one's own. `renewals` chooses the steps at which a reference is
evaluated, for `guidance.reuse`.
"""

from .boss_costs import boss
from .frozen_error import align
from .objectives import endpoint_error
from .renewal_costs import renewals
from .solver_search import strategies
from .study import Result
from .timestep_search import timesteps
from .trajectories import Trajectories, teacher
from .trajectory_costs import gits, select

__all__ = [
    "Result",
    "Trajectories",
    "align",
    "boss",
    "endpoint_error",
    "gits",
    "renewals",
    "select",
    "strategies",
    "teacher",
    "timesteps",
]
