"""Guidance rules: small pure ``init``/``apply`` pairs that combine predictions.

Knows jax and nothing else of this project. ``D = D_ref + scale * (D_main - D_ref)``: 1 is off.
"""

from .combine import combine
from .config import from_config, to_config
from .cost import cost
from .protocol import CLASSIFIER, GIVEN, GUIDE, MAIN, NULL, Branch, Guided, Rule, unguided
from .push import Push, chain, push, scale
from .references.autoguidance import autoguidance, weak
from .references.cfg import cfg, domain, null
from .transforms.cfg_zero_star import cfg_zero_star
from .transforms.channels import channels
from .transforms.frequency import frequency_decoupled
from .transforms.magnitude import magnitude_aware
from .transforms.projection import apg, clip_norm, momentum, project
from .transforms.rescale import cfg_rescale, std_rescale
from .transforms.tangential import tcfg
from .wrappers.interval import between
from .wrappers.together import cfg_and_autoguidance, together

__all__ = [
    "CLASSIFIER",
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
    "cfg_and_autoguidance",
    "cfg_rescale",
    "cfg_zero_star",
    "chain",
    "channels",
    "clip_norm",
    "combine",
    "cost",
    "domain",
    "frequency_decoupled",
    "from_config",
    "magnitude_aware",
    "momentum",
    "null",
    "project",
    "push",
    "scale",
    "std_rescale",
    "tcfg",
    "to_config",
    "together",
    "unguided",
    "weak",
]
