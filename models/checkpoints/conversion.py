"""From the arrays of a published file to this project's, by a table for each architecture."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.files import Array
from .keys import ARCHITECTURES, architecture
from .keys.layout import Entry
from .readers import LazyTensor, WeightSource


def read_section(weights: WeightSource, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``model`` section of the network that a published file's arrays belong to.

    Args:
        weights: the file.
        overrides: fields that replace what the file says; ``name`` chooses the architecture.

    Raises:
        UserError: no architecture has such arrays, or the named one has no table.
    """
    name = overrides.get("name")
    if name is not None and name not in ARCHITECTURES:
        raise UserError(
            f"published weights of {name!r} cannot be read; those that can are of "
            f"{', '.join(ARCHITECTURES)}"
        )
    for one in (name,) if name else ARCHITECTURES:
        section = architecture(one).recognise(weights)
        if section is not None:
            return {"name": one} | section | overrides
    some = ", ".join(list(weights.tensors)[:4])
    raise UserError(
        f"{weights.path} ({weights.description}) is of no network known here: its arrays are "
        f"called {some}, ...; known are {', '.join(ARCHITECTURES)}"
        + (f", and it is not of {name}" if name else "")
    )


def convert(weights: WeightSource, section: Mapping[str, Any]) -> dict[str, Array]:
    """Return a published file's arrays by their paths here, each read when asked for.

    Args:
        weights: the file.
        section: the network's ``model`` section.

    Raises:
        UserError: an array that is missing, or one that the network has no place for, by name.
    """
    module = architecture(section["name"])
    taken = inspect.signature(module.keys).parameters
    offered = dict(section) | {"names": weights.tensors.keys()}
    fields = {key: value for key, value in offered.items() if key in taken}
    table: Mapping[str, Entry | None] = module.keys(**fields)
    loaded = {name: entry for name, entry in table.items() if entry is not None}
    for name in sorted(loaded.keys() - weights.tensors.keys()):
        raise UserError(
            f"{weights.path}: {name} is missing; it is {loaded[name].path} of {section['name']} "
            f"({len(table)} arrays, {len(weights.tensors)} in the file)"
        )
    for name in sorted(weights.tensors.keys() - table.keys()):
        raise UserError(
            f"{weights.path}: {name}, of shape {weights.tensors[name].shape}, has no place in "
            f"{section['name']} ({len(table)} arrays, {len(weights.tensors)} in the file)"
        )
    return {entry.path: _converted(weights, name, entry) for name, entry in loaded.items()}


def _converted(weights: WeightSource, name: str, entry: Entry) -> Array:
    tensor: LazyTensor = weights.tensors[name]
    try:
        # An array of one number, repeated without being in memory, shows what becomes of a shape.
        shape = entry.transform(np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)).shape
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{weights.path}: {name} has shape {tensor.shape}, which {entry.path} does not "
            f"({error})"
        ) from error
    return Array(shape, tensor.dtype, lambda: entry.transform(tensor.read()))
