"""Rules to and from nested dictionaries, as configs write them."""

import inspect
from collections.abc import Mapping
from typing import Any

from .protocol import Rule
from .push import Chain, Push
from .registry import CONSTRUCTORS, origin


def from_config(section: Mapping[str, Any]) -> Rule:
    """Build a rule from ``{"name": constructor, argument: value, ...}``; values may nest.

    ``{"name": "between", "rule": {"name": "cfg", "scale": 2.0}, "low": 0.3, "high": 3.0}`` is
    ``between(cfg(2.0), 0.3, 3.0)``. Arguments that take any number of parts (``push`` of `push`,
    ``transforms`` of `chain`, ``rules`` of `together`) are lists.

    Raises:
        ValueError: unknown name or argument, or numbers that the constructor refuses.
    """
    built = _built(section)
    if not hasattr(built, "at"):
        raise ValueError(
            f"guidance.name {section['name']!r} is a part of a rule: put it into "
            f"{{'name': 'push', 'reference': ..., 'push': [...]}}"
        )
    return built


def _built(section: Mapping[str, Any]) -> Any:
    arguments = dict(section)
    name = arguments.pop("name", None)
    if name not in CONSTRUCTORS:
        raise ValueError(f"guidance.name {name!r} is not one of {', '.join(sorted(CONSTRUCTORS))}")
    build = CONSTRUCTORS[name].build
    arguments = {key: _value(value) for key, value in arguments.items()}
    try:
        several = _variadic(build)
        parts = arguments.pop(several, ()) if several else ()
        # Keyword arguments cannot come before the variadic ones: those that do go by position.
        first = [arguments.pop(key) for key in _before(build, several) if key in arguments]
        return build(*first, *parts, **arguments)
    except TypeError as error:
        raise ValueError(f"guidance {name}: {error}") from error


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _built(value) if "name" in value else dict(value)
    if isinstance(value, (list, tuple)):
        return tuple(_value(one) for one in value)
    return value


def to_config(rule: Rule) -> dict[str, Any]:
    """Return the dictionary that `from_config` turns into this rule.

    A rule made by `from_config` gives back the dictionary it was made from; lists become tuples.

    Raises:
        ValueError: a part that no constructor made.
    """
    known = origin(rule)
    if known is not None:
        arguments = {key: _plain(value) for key, value in known.arguments.items()}
        return {"name": known.constructor.name, **arguments}
    if isinstance(rule, Chain):
        return {"name": "chain", "transforms": _plain(rule.transforms)}
    if isinstance(rule, Push) and not rule.renoise:
        return {
            "name": "push",
            "reference": _plain(rule.reference),
            "push": (_plain(rule.transform),),
        }
    raise ValueError(
        f"guidance.to_config: {rule!r} was not made by a constructor of guidance (or was changed "
        f"since): build it with one"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if hasattr(value, "apply") or hasattr(value, "predictions"):
        return to_config(value)
    return value


def _variadic(build) -> str | None:
    kinds = {name: p.kind for name, p in inspect.signature(build).parameters.items()}
    return next((n for n, kind in kinds.items() if kind == inspect.Parameter.VAR_POSITIONAL), None)


def _before(build, several: str | None) -> list[str]:
    names = list(inspect.signature(build).parameters)
    return names[: names.index(several)] if several else []
