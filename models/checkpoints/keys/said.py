"""What a checkpoint says of its network beside the arrays: its training's arguments or a config."""

from collections.abc import Mapping
from typing import Any

from ....core.errors import UserError
from ..readers import WeightSource

# Whether a network has learnt what stands for no class.
NULL = "null_class"
# Where trainers keep arguments, in the order in which they are looked for.
ARGUMENTS = ("args", "hyper_parameters", "config", "config.json")


def arguments(weights: WeightSource) -> dict[str, Any]:
    """Return the arguments that a checkpoint keeps, by name; empty where it keeps none."""
    found: dict[str, Any] = {}
    for place in reversed(ARGUMENTS):
        kept = weights.metadata.get(place)
        if isinstance(kept, Mapping):
            found |= kept
    return found


def number(weights: WeightSource, *names: str) -> int | None:
    """Return a whole number above 0 that the arguments have under one of ``names``, or None."""
    kept = arguments(weights)
    values = (kept.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)


def word(weights: WeightSource, *names: str) -> str | None:
    """Return text that the arguments have under one of ``names``, in lower case, or None."""
    kept = arguments(weights)
    values = (kept.get(name) for name in names)
    return next((value.lower() for value in values if isinstance(value, str)), None)


def classes(weights: WeightSource, table: str) -> dict[str, Any]:
    """Return the fields that a table of labels tells: how many classes, and whether none is one.

    Args:
        weights: the file.
        table: name of the table.

    Returns:
        ``num_classes``, and ``null_class`` False where the table has no row for it. Where the
        arguments say another number, the error that says so is in the field's place.
    """
    rows = weights.tensors[table].shape[0]
    said = number(weights, "num_classes", "num_embeds_ada_norm")
    if said is None and arguments(weights).get("class_dropout_prob") == 0:
        said = rows
    if said is None or rows == said + 1:
        return {"num_classes": rows - 1}
    if rows == said:
        return {"num_classes": rows, NULL: False}
    problem = UserError(
        f"{weights.path}: {table} has {rows} rows and the file's arguments say {said} classes, "
        f"which makes {said} or {said + 1} rows: one of the two is of another network"
    )
    return {"num_classes": problem}


def variance(weights: WeightSource, doubled: bool) -> bool | UserError:
    """Return whether a network predicts a variance, unless the arguments say otherwise."""
    said = arguments(weights).get("learn_sigma")
    if type(said) is bool and said != doubled:
        return UserError(
            f"{weights.path}: the file's arguments say learn_sigma={said} and its last layer has "
            f"{'twice' if doubled else 'only'} the input's channels: one of the two is of another "
            f"network"
        )
    return doubled


def unknown(weights: WeightSource, what: str) -> UserError:
    """Return the error of a network that was trained in a way that its file says."""
    return UserError(
        f"{weights.path}: the file's arguments say that the network {what}, which networks here do "
        f"not: give the preconditioner that it is to be read with, if the arguments are wrong"
    )
