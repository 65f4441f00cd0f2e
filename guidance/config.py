"""Rules to and from nested dictionaries, as configs write them."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..core.calls import takes_parts
from ..core.constructors import origin
from ..core.part_types import PART_TYPES, PartType, checked, part_word
from ..core.registry import registry
from .operators.operator import Operator
from .protocol import GIVEN, NULL, Branch, Rule
from .pushes import At, Chain, Push, Reference, Transform

CONSTRUCTORS = registry("rule")


def _is_reference(value: Any) -> bool:
    return hasattr(value, "predictions") or isinstance(value, Branch)


def _is_rule(value: Any) -> bool:
    return hasattr(value, "apply") and hasattr(value, "at") and not isinstance(value, type)


def _is_transform(value: Any) -> bool:
    return hasattr(value, "apply") and not hasattr(value, "at") and not isinstance(value, type)


PART_TYPES[Rule] = PartType(
    "a rule", _is_rule, "; put it into a push with a reference and transforms: push(null(), ...)"
)
PART_TYPES[Transform] = PartType("a transform of the push", _is_transform)
PART_TYPES[Reference] = PART_TYPES[Branch] = PartType("a reference", _is_reference)
PART_TYPES[Push] = PartType(
    "a push (push, cfg, apg, ...)",
    lambda value: isinstance(value, Push),
    "; a wrapper goes around it, as in between(reg(cfg(2.0)), 0.3, 3.0)",
)


def from_config(section: Any) -> Rule:
    """Build a rule from ``{"name": constructor, argument: value, ...}``; values may nest.

    ``{"name": "between", "rule": {"name": "cfg", "scale": 2.0}, "low": 0.3, "high": 3.0}`` is
    ``between(cfg(2.0), 0.3, 3.0)``. Arguments that take any number of parts (``push`` of `push`,
    ``transforms`` of `chain`, ``rules`` of `together`) are lists.

    Raises:
        ValueError: an unknown name, an unknown, missing or misplaced argument, or numbers that
            the constructor refuses; with the place, ``guidance.push.1``.
    """
    return checked(CONSTRUCTORS.build(section, "guidance"), Rule, "guidance", "a config")


@takes_parts("guidance")
def to_config(rule: Rule | Transform | Reference | Branch | Operator) -> dict[str, Any]:
    """Return the dictionary that `from_config` turns into this rule, or that stands for its part.

    A rule made by `from_config` gives back the dictionary it was made from; lists become tuples.

    Raises:
        ValueError: a part that no constructor made, or an argument that is an array.
    """
    known = origin(rule)
    if known is not None:
        parameters = inspect.signature(known.constructor.build).parameters.values()
        arguments = {
            # No part at all is a list of none.
            parameter.name: known.arguments.get(parameter.name, ())
            for parameter in parameters
            if parameter.name in known.arguments or parameter.kind is parameter.VAR_POSITIONAL
        }
        name = known.constructor.name
        return {"name": name} | {
            key: _plain(value, f"{name}.{key}") for key, value in arguments.items()
        }
    if isinstance(rule, Chain):
        return {"name": "chain", "transforms": _plain(rule.transforms, "chain")}
    if isinstance(rule, Push) and isinstance(rule.transform, Chain) and not rule.renoise:
        return {
            "name": "push",
            "reference": _plain(rule.reference, "push.reference"),
            "push": _plain(rule.transform.transforms, "push.push"),
        }
    if isinstance(rule, At):
        return _plain(rule.branch, "branch")
    if isinstance(rule, Branch) and isinstance(rule.condition, str):
        for name, condition in (("weak", GIVEN), ("null", NULL)):
            if rule == Branch(network=rule.network, condition=condition):
                return {"name": name, "network": rule.network}
    raise ValueError(
        f"guidance.to_config: {rule!r} was not made by a constructor of guidance (or was changed "
        f"since): build it with one"
    )


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one, f"{where}.{i}") for i, one in enumerate(value))
    if isinstance(value, Mapping):
        return {key: _plain(one, f"{where}.{key}") for key, one in value.items()}
    if part_word(value):
        return to_config(value)
    if hasattr(value, "dtype"):
        if isinstance(value, jax.core.Tracer) or np.ndim(value):
            raise ValueError(
                f"guidance.to_config: {where} is an array of shape {np.shape(value)}; a config "
                f"holds plain numbers"
            )
        return value.item()
    return value
