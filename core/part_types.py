"""What annotations of constructors ask for, whether a value is that, and what is said where not."""

import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .constructors import origin
from .errors import WrongType
from .text import shown


class PartType(NamedTuple):
    """What an annotation asks for.

    Attributes:
        word: what messages call it.
        accepts: a test of values.
        hint: what to do with a part of another kind; empty where nothing helps.
        kind: of the constructors that make one, where these may be of another table than those
            that take one; a key of `constructors.KINDS`.
    """

    word: str
    accepts: Callable[[Any], bool]
    hint: str = ""
    kind: str = ""


# Types that constructors declare for their parts, by the class in the annotation.
PART_TYPES: dict[type, PartType] = {}


def is_section(wanted: Any) -> bool:
    """Say whether an argument is a section that the constructor itself reads."""
    return any((typing.get_origin(option) or option) is Mapping for option in _options(wanted))


def kinds_of(wanted: Any) -> list[str]:
    """Return the kinds of parts that an annotation names, of those that say theirs."""
    options = (typing.get_origin(option) or option for option in _options(wanted))
    found = (PART_TYPES[one].kind for one in options if one in PART_TYPES)
    return [kind for kind in found if kind]


def declares_parts(wanted: Any) -> bool:
    """Say whether an annotation names one of `PART_TYPES`."""
    options = (typing.get_origin(option) or option for option in _options(wanted))
    return any(isinstance(option, type) and option in PART_TYPES for option in options)


def declares_numbers(wanted: Any) -> bool:
    """Say whether an annotation names a number, or a list of them."""
    several = [one for option in _options(wanted) for one in typing.get_args(option)]
    return float in _options(wanted) or any(map(declares_numbers, several))


def has_nan(value: Any) -> bool:
    """Say whether NaN is among numbers that are known."""
    if isinstance(value, (tuple, list)):
        return any(map(has_nan, value))
    if isinstance(value, jax.core.Tracer) or not (isinstance(value, float) or _is_array(value)):
        return False
    return jnp.issubdtype(getattr(value, "dtype", float), jnp.inexact) and bool(
        np.isnan(value).any()
    )


def checked(value: Any, wanted: Any, where: str, owner: str) -> Any:
    """Return a value that is of the type its constructor declares.

    Args:
        value: what was given.
        wanted: the annotation; types that nothing is known of pass.
        where, owner: whose argument it is, for the message.

    Raises:
        UserError: another type.
    """
    if found := mismatch(value, wanted):
        path, text = found
        raise WrongType(f"{where}{path}: {owner} takes {text}")
    return value


def mismatch(value: Any, wanted: Any) -> tuple[str, str] | None:
    """Return where in a value another type than declared was found, and what is said of it.

    Args:
        value: what was given.
        wanted: the annotation; types that nothing is known of pass.

    Returns:
        A path (``.1`` in a list, else empty) and a text such as ``a number here, got '3'``; None
        where the type is right.
    """
    options = _options(wanted)
    kinds = [_part_type(option) for option in options]
    fitting = [one for one, kind in zip(options, kinds, strict=True) if kind.accepts(value)]
    if fitting:
        inside = [_mismatch_inside(value, option) for option in fitting]
        return None if None in inside else inside[0]
    named = list(dict.fromkeys(kind.word for kind in kinds))
    hint = next((kind.hint for kind in kinds if kind.hint and part_word(value)), "")
    return "", f"{' or '.join(named)} here, got {named_value(value)}{hint}"


def _mismatch_inside(value: Any, option: Any) -> tuple[str, str] | None:
    """Return what `mismatch` returns of the first of a list's values that is not as declared."""
    wanted = typing.get_args(option)
    if (typing.get_origin(option) or option) not in _LISTS or not wanted:
        return None
    if _is_array(value):  # its numbers are of one type
        return (
            None
            if _has_numbers(value) or not declares_numbers(wanted[0])
            else (
                "",
                f"numbers here, got {shown(value)}",
            )
        )
    if typing.get_origin(option) is tuple and wanted[-1] is not Ellipsis:
        if len(value) != len(wanted):
            return "", f"{len(wanted)} values here, got {named_value(value)}"
    else:
        wanted = wanted[:1] * len(value)
    for number, (one, of) in enumerate(zip(value, wanted, strict=True)):
        if found := mismatch(one, of):
            return f".{number}{found[0]}", found[1]
    return None


def _options(wanted: Any) -> tuple:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return typing.get_args(wanted)
    return (wanted,)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _has_numbers(value: Any) -> bool:
    return _is_array(value) and jnp.issubdtype(value.dtype, jnp.number)


def _is_number(value: Any, plain: type, kind: Any) -> bool:
    """Return whether a value is a plain number, or an array of one."""
    if _is_array(value):
        return value.shape == () and jnp.issubdtype(value.dtype, kind)
    return isinstance(value, plain) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__len__"):
        return False
    return value.shape != () if _is_array(value) else hasattr(value, "__iter__")


_PLAIN: dict[Any, PartType] = {
    bool: PartType("true or false", lambda value: isinstance(value, (bool, np.bool_))),
    str: PartType("a string", lambda value: isinstance(value, str)),
    int: PartType("a whole number", lambda value: _is_number(value, numbers.Integral, jnp.integer)),
    float: PartType("a number", lambda value: _is_number(value, numbers.Real, jnp.number)),
    jax.Array: PartType("an array of numbers", _has_numbers),
    types.NoneType: PartType("None", lambda value: value is None),
}


_LISTS = (tuple, list, Sequence)


_ANYTHING = PartType("something else", lambda value: True)


def _part_type(option: Any) -> PartType:
    outer = typing.get_origin(option) or option
    if outer is Mapping:
        return PartType("a section", lambda value: isinstance(value, Mapping))
    if outer in _LISTS:
        return PartType("a list", _is_list)
    try:
        return PART_TYPES.get(outer) or _PLAIN.get(outer) or _ANYTHING
    except TypeError:  # an annotation that cannot be hashed
        return _ANYTHING


def part_word(value: Any) -> str | None:
    """Return what messages call a part, by the types that are known; None for other values."""
    return next((one.word for one in PART_TYPES.values() if one.accepts(value)), None)


def named_value(value: Any) -> str:
    """Return what a message calls a value that is out of place."""
    if inspect.isroutine(value):
        return f"{shown(value)}: call it"
    part, known = part_word(value), origin(value)
    return f"{part} ({known.constructor.name})" if part and known else part or shown(value)
