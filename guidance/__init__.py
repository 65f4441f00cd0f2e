"""Guidance rules: small pure ``init``/``apply`` pairs that combine predictions.

Knows jax and nothing else of this project. ``D = D_ref + scale * (D_main - D_ref)``: 1 is off.
"""

from .autoguidance import autoguidance
from .cfg import cfg
from .cfg_zero_star import cfg_zero_star
from .channels import channels
from .combine import combine
from .config import from_config
from .cost import cost
from .frequency import frequency_decoupled
from .interval import between
from .magnitude import magnitude_aware
from .projection import apg, clip_norm, momentum, project
from .protocol import GIVEN, GUIDE, MAIN, NULL, Branch, Guided, Rule, unguided
from .push import Push, chain, scale
from .rescale import cfg_rescale, std_rescale
from .tangential import tcfg

__all__ = [
    "GIVEN",
    "GUIDE",
    "MAIN",
    "NULL",
    "Branch",
    "Guided",
    "Push",
    "Rule",
    "apg",
    "autoguidance",
    "between",
    "cfg",
    "cfg_rescale",
    "cfg_zero_star",
    "chain",
    "channels",
    "clip_norm",
    "combine",
    "cost",
    "frequency_decoupled",
    "from_config",
    "magnitude_aware",
    "momentum",
    "project",
    "scale",
    "std_rescale",
    "tcfg",
    "unguided",
]
