"""Frozen dataclasses that are pytrees, and what is static in them."""

import dataclasses
from functools import cached_property
from typing import Any, TypeVar, cast, dataclass_transform

import jax
import numpy as np

from .text import written

T = TypeVar("T")


def static(**options: Any) -> Any:
    """Declare a dataclass field as structure: part of the compiled program, never traced."""
    return dataclasses.field(metadata={"static": True}, **options)


class Constant:
    """A hashable array, so that it is static structure: part of the program, never traced."""

    def __init__(self, value: np.ndarray):
        self.value = value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Constant) and np.array_equal(self.value, other.value)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Constant({self.value.dtype}{list(self.value.shape)})"

    @cached_property
    def _hash(self) -> int:
        return hash((self.value.shape, self.value.tobytes()))


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree, whose static fields are marked so."""
    if "__repr__" not in cls.__dict__:
        setattr(cls, "__repr__", written)  # noqa: B010  (type checkers refuse the other way)
    cls = dataclasses.dataclass(frozen=True)(cls)
    every = dataclasses.fields(cast(Any, cls))
    leaves = tuple(field.name for field in every if not field.metadata.get("static"))
    fixed = tuple(field.name for field in every if field.metadata.get("static"))

    # The class itself is part of the structure. `jax.tree_util.register_dataclass` would leave it
    # out: in jax 0.10 the structures of two classes with equal fields compare equal, and a
    # program compiled for one rule may then run for another.
    def structure(one):
        return cls, *(getattr(one, name) for name in fixed)

    def with_keys(one):
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(one, name)) for name in leaves]
        return keyed, structure(one)

    def plain(one):
        return [getattr(one, name) for name in leaves], structure(one)

    def rebuilt(auxiliary, children):
        # Around __init__ and its checks: jax rebuilds with placeholders for leaves.
        one = object.__new__(cls)
        for name, value in zip((*leaves, *fixed), (*children, *auxiliary[1:]), strict=True):
            object.__setattr__(one, name, value)
        return one

    jax.tree_util.register_pytree_with_keys(cls, with_keys, rebuilt, plain)
    return cls


def replaced(one: T, **changes: Any) -> T:
    """Return a copy of a dataclass with some fields changed."""
    # Type checkers know what `pytree` makes as classes with fields, and not as dataclasses.
    return cast(T, dataclasses.replace(cast(Any, one), **changes))


class ByContent:
    """Base of pytrees that hold arrays: equal where structure and numbers are.

    A dataclass would compare its fields as tuples, and arrays of several numbers have no truth
    value.
    """

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        # Into the class itself, as a dataclass would otherwise write one of its own.
        if "__eq__" not in cls.__dict__:
            cls.__eq__ = ByContent.__eq__  # type: ignore[method-assign]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        # To type checkers structures have no ``==``.
        ours, theirs = (cast(Any, jax.tree.structure(one)) for one in (self, other))
        if ours != theirs:
            return False
        pairs = zip(jax.tree.leaves(self), jax.tree.leaves(other), strict=True)
        return all(np.array_equal(one, two) for one, two in pairs)

    def __hash__(self) -> int:
        return hash(jax.tree.structure(self))
