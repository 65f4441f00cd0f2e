"""Values and parts as short text, for messages, descriptions and `repr`."""

import dataclasses
import inspect
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def shown(value: Any) -> str:
    """Return a value as text: an array by its type and shape, parts by the calls that make them."""
    if isinstance(value, np.generic):
        return repr(value.item())
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        inside = ", ".join(map(shown, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {shown(one)}" for key, one in value.items()) + "}"
    if inspect.isroutine(value):
        return f"the function {value.__name__} itself"
    if value is None or isinstance(value, (str, int, float)) or dataclasses.is_dataclass(value):
        return repr(value)
    return reprlib.repr(value)


def written(made: Any, always: tuple[str, ...] = ()) -> str:
    """Return the call that makes a part, such as ``between(cfg(3.0), low=0.3, high=3.0)``.

    A part that was made by hand is written as its class with all its fields.

    Args:
        made: the part.
        always: arguments to name also where they were left at their defaults.
    """
    known = getattr(made, "_origin", None)
    if known is None and not dataclasses.is_dataclass(made):
        return reprlib.repr(made)
    if known is None:
        fields = ((one.name, getattr(made, one.name)) for one in dataclasses.fields(made))
        inside = ", ".join(f"{name}={shown(value)}" for name, value in fields)
        return f"{type(made).__name__}({inside})"
    arguments: list[str] = []
    for number, (key, parameter) in enumerate(known.constructor.parameters.items()):
        if key not in known.arguments and key not in always:
            continue
        value = known.arguments.get(key, parameter.default)
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments += map(shown, value)
        else:
            named = number > 0 or parameter.kind is parameter.KEYWORD_ONLY or key in always
            arguments.append(f"{key}={shown(value)}" if named else shown(value))
    return f"{known.constructor.name}({', '.join(arguments)})"
