"""Calls of constructors and verbs, checked against what they declare before they run."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from .constructors import KINDS, Constructor
from .errors import UserError, WrongType
from .part_types import checked, declares_numbers, declares_parts, has_nan, mismatch

F = TypeVar("F", bound=Callable)


@functools.cache
def hints_of(build: Callable) -> Mapping[str, Any]:
    """Return the annotations of a function, none where they name what is not at hand."""
    made = inspect.unwrap(build)
    try:
        return typing.get_type_hints(made.__init__ if isinstance(made, type) else made)
    except (NameError, TypeError, AttributeError):
        return {}


def owner_of(entry: Constructor) -> str:
    """Return what messages call a constructor, by the place where configs name it."""
    return f"{KINDS[entry.kind].place.partition('.')[0]}.{entry.name}"


def takes_parts(package: str) -> Callable[[F], F]:
    """Refuse what is no part, or another one, where a function declares a part of some type.

    A constructor that was not called is the usual mistake. The checks go before the function.

    Args:
        package: in whose name, ``guidance``.

    Raises:
        WrongType: from the function that is decorated.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                given = {}  # Python itself says what does not fit
            for name, wanted in hints_of(function).items():
                if name in given and declares_parts(wanted):
                    checked(given[name], wanted, f"{package}.{function.__name__}", name)
            return function(*args, **kwargs)

        return typing.cast(F, call)

    return decorate


def _each(entry: Constructor, bound: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the argument, its value and what is declared for it; each of several by itself."""
    hints, parameters = hints_of(entry.build), entry.parameters
    for key, value in bound.items():
        kind = parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((key, one, hints.get(key, Any)) for one in value)
        elif kind is not inspect.Parameter.VAR_KEYWORD:
            yield key, value, hints.get(key, Any)


def check_call(
    entry: Constructor, bound: Mapping[str, Any], among: Callable[[Any], bool] = lambda wanted: True
) -> None:
    """Refuse a value of another type than the constructor declares, in its own name.

    Args:
        entry, bound: the constructor and its arguments.
        among: which annotations to look at.
    """
    for key, value, wanted in _each(entry, bound):
        if among(wanted) and (found := mismatch(value, wanted)):
            path, text = found
            raise WrongType(f"{owner_of(entry)}: {key}{path} takes {text}")


def refuse_nan(entry: Constructor, bound: Mapping[str, Any]) -> None:
    """Refuse NaN where a number is declared, in the constructor's name; traced values pass."""
    for key, value, wanted in _each(entry, bound):
        if declares_numbers(wanted) and has_nan(value):
            raise UserError(f"{owner_of(entry)}: {key} must be a number, got {value}")
