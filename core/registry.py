"""Named constructors: what made a rule or a part of one, with which arguments, after whom."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable)


@dataclasses.dataclass(frozen=True)
class Constructor:
    """A public function that makes a rule or a part of one.

    Attributes:
        name: what configs call it.
        build: the function.
        sources: arXiv numbers of the papers it implements (keys of `guidance.citations`).
    """

    name: str
    build: Callable
    sources: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Origin:
    """The call that made an object: constructor and the arguments that were given."""

    constructor: Constructor
    arguments: Mapping[str, Any]


CONSTRUCTORS: dict[str, Constructor] = {}


def constructor(*sources: str) -> Callable[[F], F]:
    """Register a function under its own name, and record its calls on what it returns.

    The record is an attribute of the object and no part of the pytree: it never makes a program
    compile anew, and a copy with other numbers (`jax.tree.map`, `dataclasses.replace`) has none.
    """

    def register(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def build(*args, **kwargs):
            built = function(*args, **kwargs)
            bound = signature.bind(*args, **kwargs).arguments
            object.__setattr__(built, "_origin", Origin(entry, dict(bound)))
            return built

        entry = Constructor(function.__name__, build, sources)
        CONSTRUCTORS[entry.name] = entry
        return build

    return register


def origin(made: Any) -> Origin | None:
    """Return the call that made a rule or a part of one; None for one made by hand."""
    return getattr(made, "_origin", None)


def name_of(made: Any) -> str:
    """Return what messages call a rule: its constructor's name, or its class's."""
    known = origin(made)
    return known.constructor.name if known else type(made).__name__
