"""Preconditioners: how a raw network becomes a denoiser in EDM coordinates, one family a file.

A preconditioner is a frozen dataclass with ``coefficients(sigma) -> Coefficients`` for
``D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)``; one that trains by an x0 loss has
``loss_weight(sigma)`` too. It knows nothing of the network.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from .consistency import Consistency
from .diffusion import IDDPM, VE, VP
from .discrete import Discrete, Table
from .edm import EDM, Coefficients, Direct
from .flow import Flow
from .flow_map import FlowMap
from .predicted import Predicted
from .trigflow import TrigFlow


@runtime_checkable
class Preconditioner(Protocol):
    """What turns a network into a denoiser."""

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""


# EDM's, for preconditioners that hold at every noise level.
SIGMA_RANGE = (0.002, 80.0)

PRECONDITIONERS: dict[str, type] = {
    "edm": EDM,
    "direct": Direct,
    "vp": VP,
    "ve": VE,
    "iddpm": IDDPM,
    "discrete": Discrete,
    "flow": Flow,
    "consistency": Consistency,
    "trigflow": TrigFlow,
    "flow_map": FlowMap,
}

# What a network estimates: the posterior mean, the end of the flow at the lowest noise level, or
# its place at a level that is asked for, as the x0 on the straight line to it.
ESTIMATES = ("x0", "consistency", "flow_map")


def estimate_of(preconditioner: Preconditioner) -> str:
    """Return which of `ESTIMATES` a network of a preconditioner makes."""
    return getattr(preconditioner, "estimate", "x0")


def sigma_range(preconditioner: Preconditioner) -> tuple[float, float]:
    """Return the noise levels that networks of a family know: its own, or EDM's."""
    return getattr(preconditioner, "sigma_range", SIGMA_RANGE)


def from_config(section: str | Mapping[str, Any], **defaults) -> Preconditioner:
    """Read a model's ``preconditioner`` field: a name, or a mapping with ``name`` and its numbers.

    Args:
        section: ``"edm"`` or ``{"name": "edm", "sigma_data": 0.7}``.
        defaults: numbers used where the section names none; those that the named preconditioner
            does not have are left out.

    Raises:
        ValueError: an unknown name.
        TypeError: a number that the named preconditioner does not have.
    """
    fields = {"name": section} if isinstance(section, str) else dict(section)
    name = fields.pop("name", None)
    if name not in PRECONDITIONERS:
        raise ValueError(f"preconditioner {name!r} is not one of {', '.join(PRECONDITIONERS)}")
    kind = PRECONDITIONERS[name]
    taken = {field.name for field in dataclasses.fields(kind)}
    known = {key: value for key, value in defaults.items() if key in taken}
    return kind(**(known | fields))


__all__ = [
    "EDM",
    "ESTIMATES",
    "IDDPM",
    "PRECONDITIONERS",
    "SIGMA_RANGE",
    "VE",
    "VP",
    "Coefficients",
    "Consistency",
    "Direct",
    "Discrete",
    "Flow",
    "FlowMap",
    "Preconditioner",
    "Predicted",
    "Table",
    "TrigFlow",
    "estimate_of",
    "from_config",
    "sigma_range",
]
