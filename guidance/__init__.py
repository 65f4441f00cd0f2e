"""Guidance rules: small pure ``init``/``apply`` pairs that combine predictions.

Knows jax and nothing else of this project. ``D = D_ref + scale * (D_main - D_ref)``: 1 is off.
"""

from .combine import combine, cost
from .config import from_config
from .interval import between
from .protocol import GIVEN, GUIDE, MAIN, NULL, Branch, Guided, Rule, unguided
from .push import autoguidance, cfg

__all__ = [
    "GIVEN",
    "GUIDE",
    "MAIN",
    "NULL",
    "Branch",
    "Guided",
    "Rule",
    "autoguidance",
    "between",
    "cfg",
    "combine",
    "cost",
    "from_config",
    "unguided",
]
