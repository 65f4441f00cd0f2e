"""What a network is conditioned on, described: a label, named arrays of numbers, or nothing.

A description is a `Label`, `Values`, the `Parts` of a dictionary of these, or None. It is
hashable, so a network that carries one is static under `jax.jit`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool

from ..core.errors import UserError

# The null of a part that the network holds among its parameters.
LEARNT = "learnt"


@dataclasses.dataclass(frozen=True)
class Label:
    """A class: int32 ``[batch]``, from 0 to ``num_classes - 1``, or the null class.

    Attributes:
        num_classes: real classes, 1 or more.
        null: whether ``num_classes`` stands for no class; False for a network that never learnt
            one.
    """

    num_classes: int
    null: bool = True


@dataclasses.dataclass(frozen=True)
class Values:
    """Numbers of one shape a sample: an embedding, an image, a measurement.

    Attributes:
        shape: of one sample's, without the batch.
        dtype: name of their type.
        null: a number that fills the null value, `LEARNT` where the network holds it, or None for
            a part that has no null and stays as given where the others are dropped.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    null: float | str | None = None


@dataclasses.dataclass(frozen=True, init=False)
class Parts(Mapping):
    """A dictionary's description: that of each of its parts, by name.

    Attributes:
        pairs: pairs (name, description), in order of the names.
    """

    pairs: tuple[tuple[str, Label | Values], ...]

    def __init__(self, parts: Mapping[str, Label | Values]):
        object.__setattr__(self, "pairs", tuple(sorted(parts.items())))

    def __getitem__(self, name: str) -> Label | Values:
        return dict(self.pairs)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return repr(dict(self.pairs))


Condition = Label | Values | Parts | None
# As a person may write one: a number stands for so many classes.
Described = Condition | int | Mapping[str, Label | Values]


def described(condition: Any) -> Condition:
    """Return a description in its hashable form; a plain number stands for so many classes.

    Raises:
        ValueError: something else.
    """
    if condition is None or isinstance(condition, (Label, Values, Parts)):
        return condition
    if isinstance(condition, (int, np.integer)) and condition >= 0:
        return Label(int(condition)) if condition else None
    if isinstance(condition, Mapping) and all(
        isinstance(part, (Label, Values)) for part in condition.values()
    ):
        return Parts(condition) if condition else None
    raise ValueError(
        f"a condition is described by a Label, a dictionary of Label and Values, or None, got "
        f"{condition!r}"
    )


def like(condition: Condition, batch: int) -> Any:
    """Return shapes and types of a batch of conditions; None for a network that takes none."""
    if isinstance(condition, Label):
        return jax.ShapeDtypeStruct((batch,), jnp.int32)
    if isinstance(condition, Values):
        return jax.ShapeDtypeStruct((batch, *condition.shape), jnp.dtype(condition.dtype))
    return condition and {name: like(part, batch) for name, part in condition.items()}


def null_of(condition: Condition, learnt: Mapping[str, Array]) -> Any:
    """Return what stands for no condition, without the batch; None where nothing does.

    Parts without a null are left out: they stay as given.

    Args:
        condition: the description.
        learnt: by name, the nulls that the network holds itself.
    """
    if isinstance(condition, Label):
        return condition.num_classes if condition.null else None
    if isinstance(condition, Values):
        return _null_of("", condition, learnt)
    nulls = {name: _null_of(name, part, learnt) for name, part in (condition or {}).items()}
    return {name: null for name, null in nulls.items() if null is not None} or None


def _null_of(name: str, part: Label | Values, learnt: Mapping[str, Array]) -> Any:
    if isinstance(part, Label):
        return part.num_classes if part.null else None
    if isinstance(part.null, str):
        return learnt[name]
    return None if part.null is None else jnp.full(part.shape, part.null, part.dtype)


def without_null(condition: Condition) -> Condition:
    """Return the description of a network that never learnt what stands for no condition."""
    if isinstance(condition, Parts):
        return Parts({name: _without_null(part) for name, part in condition.items()})
    return condition and _without_null(condition)


def _without_null(part: Label | Values) -> Label | Values:
    if isinstance(part, Label):
        return dataclasses.replace(part, null=False)
    return dataclasses.replace(part, null=None)


def dropped(condition: Any, null: Any, where: Bool[ArrayLike, " batch"]) -> Any:
    """Return a batch of conditions in which the marked samples have their parts' nulls.

    Args:
        condition: labels ``[batch]``, or a dictionary of arrays.
        null: as a denoiser's ``null_condition``; parts that it lacks stay as given.
        where: marks the samples.
    """
    if isinstance(condition, Mapping):
        nulls = null or {}
        return {
            name: _dropped(part, nulls[name], where) if name in nulls else part
            for name, part in condition.items()
        }
    return condition if null is None else _dropped(condition, null, where)


def _dropped(values: ArrayLike, null: Any, where: ArrayLike) -> Array:
    given = jnp.asarray(values)
    marked = jnp.asarray(where).reshape((-1,) + (1,) * (given.ndim - 1))
    return jnp.where(marked, jnp.asarray(null, given.dtype), given)


def require(condition: Condition, given: Any, batch: int, owner: str) -> None:
    """Refuse a batch of conditions that a network cannot take.

    Traced values are checked in shape and type alone; a label out of range is NaN there (see
    `layers.labels`).

    Args:
        condition: what the network takes.
        given: labels, or a dictionary of arrays; None passes.
        batch: number of samples.
        owner: in whose name.

    Raises:
        UserError: labels that are no whole numbers, out of range or of another count; parts that
            are unknown or of another shape; a condition where none is taken.
    """
    if given is None:
        return
    if condition is None:
        raise UserError(f"{owner}: the network takes no condition, and one is given")
    if isinstance(condition, Label):
        _require_labels(condition, given, batch, owner)
        return
    if isinstance(condition, Values):
        _require_values(condition, given, batch, owner)
        return
    if not isinstance(given, Mapping) or not given or set(given) - set(condition):
        found = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise UserError(
            f"{owner}: the network's condition is a dictionary of {', '.join(condition)}, got "
            f"{found or 'an empty one'}"
        )
    for name, values in given.items():
        require(condition[name], values, batch, f"{owner}, {name}")


def _require_labels(condition: Label, given: Any, batch: int, owner: str) -> None:
    kind = f"whole numbers from 0 to {condition.num_classes - 1}"
    kind += f", or {condition.num_classes} for no class" if condition.null else ""
    given = given if hasattr(given, "dtype") else np.asarray(given)
    shape, dtype = given.shape, given.dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise UserError(f"{owner}: labels are {kind}, got {dtype}")
    if shape not in ((), (batch,)):
        raise UserError(f"{owner}: {batch} labels are needed, one a sample, got shape {shape}")
    if isinstance(given, jax.core.Tracer):
        return
    values = np.asarray(given)
    highest = condition.num_classes if condition.null else condition.num_classes - 1
    if values.size and (values.min() < 0 or values.max() > highest):
        wrong = values[(values < 0) | (values > highest)].ravel()[0]
        raise UserError(f"{owner}: labels are {kind}, got {wrong}")


def _require_values(condition: Values, given: Any, batch: int, owner: str) -> None:
    if np.shape(given) != (batch, *condition.shape):
        raise UserError(
            f"{owner}: values of shape {(batch, *condition.shape)} are needed, got "
            f"{np.shape(given)}"
        )
