"""Rules to and from nested dictionaries, as configs write them."""

import difflib
import inspect
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..core.registry import CONSTRUCTORS, Constructor, origin
from .protocol import GIVEN, NULL, Branch, Rule
from .pushes import At, Chain, Push, Reference, Transform

# What the parts of a rule are called in messages, by the type a constructor declares.
PARTS = {
    Rule: "a rule",
    Transform: "a transform of the push",
    Reference: "a reference",
}


def from_config(section: Mapping[str, Any]) -> Rule:
    """Build a rule from ``{"name": constructor, argument: value, ...}``; values may nest.

    ``{"name": "between", "rule": {"name": "cfg", "scale": 2.0}, "low": 0.3, "high": 3.0}`` is
    ``between(cfg(2.0), 0.3, 3.0)``. Arguments that take any number of parts (``push`` of `push`,
    ``transforms`` of `chain`, ``rules`` of `together`) are lists.

    Raises:
        ValueError: an unknown name, an unknown, missing or misplaced argument, or numbers that
            the constructor refuses; with the place, ``guidance.push.1``.
    """
    return _checked(_value(section, "guidance"), Rule, "guidance", "a config")


def _value(value: Any, where: str) -> Any:
    """Build what a value of a config stands for."""
    if isinstance(value, Mapping) and ("name" in value or where == "guidance"):
        return _built(value, where)
    if isinstance(value, Mapping):
        return {key: _value(one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_value(one, f"{where}.{i}") for i, one in enumerate(value))
    return value


def _built(section: Mapping[str, Any], where: str) -> Any:
    entry = _constructor(section.get("name"), where)
    parameters = inspect.signature(entry.build).parameters
    given = {
        key: _value(value, f"{where}.{key}") for key, value in section.items() if key != "name"
    }
    if unknown := [key for key in given if key not in parameters]:
        raise ValueError(
            f"{where}: {entry.name} has no argument {unknown[0]!r}; it takes "
            f"{', '.join(parameters) or 'none'}"
        )
    for key, parameter in parameters.items():
        if key not in given and parameter.default is parameter.empty:
            raise ValueError(f"{where}: {entry.name} needs the argument {key!r}")
    annotations = typing.get_type_hints(entry.build)
    first: list[Any] = []
    several: tuple = ()
    named: dict[str, Any] = {}
    for key, value in given.items():
        place, wanted = f"{where}.{key}", annotations.get(key, Any)
        if parameters[key].kind is inspect.Parameter.VAR_POSITIONAL:
            if not isinstance(value, tuple):
                raise ValueError(f"{place}: {entry.name} takes a list here, got {_shown(value)}")
            several = tuple(
                _checked(one, wanted, f"{place}.{i}", entry.name) for i, one in enumerate(value)
            )
        else:
            named[key] = _checked(value, wanted, place, entry.name)
    if several:
        # What comes before the variadic argument can then be given by position alone.
        before = list(parameters)[: _variadic(parameters)]
        first = [named.pop(key, parameters[key].default) for key in before]
    try:
        return entry.build(*first, *several, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error) if where == "guidance" else f"{where}: {error}") from error


def _constructor(name: Any, where: str) -> Constructor:
    if isinstance(name, str) and name in CONSTRUCTORS:
        return CONSTRUCTORS[name]
    near = difflib.get_close_matches(str(name), CONSTRUCTORS)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"{where}.name {name!r} is not one of {', '.join(sorted(CONSTRUCTORS))}{hint}")


def _variadic(parameters: Mapping[str, inspect.Parameter]) -> int:
    kinds = [parameter.kind for parameter in parameters.values()]
    return kinds.index(inspect.Parameter.VAR_POSITIONAL)


def _checked(value: Any, wanted: Any, where: str, owner: str) -> Any:
    """Return a value that is of the type its constructor declares."""
    kinds = [_kind(option) for option in _options(wanted)]
    if any(accepts(value) for _, accepts in kinds):
        return value
    named = list(dict.fromkeys(name for name, _ in kinds))
    hint = ""
    if wanted is Rule and _part(value):
        hint = "; put it into {'name': 'push', 'reference': ..., 'push': [...]}"
    raise ValueError(f"{where}: {owner} takes {' or '.join(named)} here, got {_shown(value)}{hint}")


def _options(wanted: Any) -> tuple:
    union = typing.get_origin(wanted) in (typing.Union, types.UnionType)
    return typing.get_args(wanted) if union else (wanted,)


def _kind(option: Any) -> tuple[str, Any]:
    """Return what an annotation is called and a test of values; types unknown here pass."""
    outer = typing.get_origin(option) or option
    if outer in PARTS:
        return PARTS[outer], lambda value: _part(value) == PARTS[outer]
    if outer in (float, int):
        kind, name = (
            (numbers.Integral, "a whole number") if outer is int else (numbers.Real, "a number")
        )
        return name, lambda value: isinstance(value, kind) and not isinstance(value, bool)
    if outer is jax.Array:
        return "an array", lambda value: hasattr(value, "dtype")
    if outer is Push:
        return "a push (push, cfg, apg, ...)", lambda value: isinstance(value, Push)
    if outer is bool:
        return "true or false", lambda value: isinstance(value, bool)
    if outer is str:
        return "a string", lambda value: isinstance(value, str)
    if outer in (tuple, list, Sequence):
        return "a list", lambda value: isinstance(value, tuple)
    if outer is types.NoneType:
        return "None", lambda value: value is None
    return "something else", lambda value: True


def _part(made: Any) -> str | None:
    """Return what kind of part an object is, in the words of `PARTS`."""
    if hasattr(made, "predictions") or isinstance(made, Branch):
        return PARTS[Reference]
    if not hasattr(made, "apply"):
        return None
    return PARTS[Rule if hasattr(made, "at") else Transform]


def _shown(value: Any) -> str:
    part, known = _part(value), origin(value)
    return f"{part} ({known.constructor.name})" if part and known else part or repr(value)


def to_config(rule: Rule) -> dict[str, Any]:
    """Return the dictionary that `from_config` turns into this rule.

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
    if _part(value):
        return to_config(value)
    if hasattr(value, "dtype"):
        if isinstance(value, jax.core.Tracer) or np.ndim(value):
            raise ValueError(
                f"guidance.to_config: {where} is an array of shape {np.shape(value)}; a config "
                f"holds plain numbers"
            )
        return value.item()
    return value
