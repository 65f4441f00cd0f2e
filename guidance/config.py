"""Rules from nested dictionaries, as configs write them."""

from collections.abc import Mapping
from typing import Any

from .autoguidance import autoguidance
from .cfg import cfg
from .cfg_zero_star import cfg_zero_star
from .frequency import frequency_decoupled
from .interval import between
from .magnitude import magnitude_aware
from .projection import apg
from .protocol import Rule, unguided
from .rescale import cfg_rescale
from .tangential import tcfg

CONSTRUCTORS = {
    "apg": apg,
    "autoguidance": autoguidance,
    "between": between,
    "cfg": cfg,
    "cfg_rescale": cfg_rescale,
    "cfg_zero_star": cfg_zero_star,
    "frequency_decoupled": frequency_decoupled,
    "magnitude_aware": magnitude_aware,
    "tcfg": tcfg,
    "unguided": unguided,
}


def from_config(section: Mapping[str, Any]) -> Rule:
    """Build a rule from ``{"name": constructor, argument: value, ...}``; values may nest.

    ``{"name": "between", "rule": {"name": "cfg", "scale": 2.0}, "low": 0.3, "high": 3.0}`` is
    ``between(cfg(2.0), 0.3, 3.0)``.

    Raises:
        ValueError: unknown name or argument, or numbers that the constructor refuses.
    """
    arguments = dict(section)
    name = arguments.pop("name", None)
    if name not in CONSTRUCTORS:
        raise ValueError(f"guidance.name {name!r} is not one of {', '.join(sorted(CONSTRUCTORS))}")
    built = {k: from_config(v) if isinstance(v, Mapping) else v for k, v in arguments.items()}
    try:
        return CONSTRUCTORS[name](**built)
    except TypeError as error:
        raise ValueError(f"guidance {name}: {error}") from error
