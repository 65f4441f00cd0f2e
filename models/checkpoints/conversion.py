"""From the arrays of a published file to this project's, by a table for each architecture."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.files import Array
from .keys import ARCHITECTURES, architecture, said
from .keys.layout import Entry
from .readers import WeightSource
from .wrappers import search, without_losses

# Names of the arrays of reference statistics, as evaluations publish them.
STATISTICS = {"mu", "sigma"}
# Paths of tables of labels.
TABLE = re.compile(r"label_table/embedding|label_tables/\d+/embedding")


def read_section(
    weights: WeightSource, overrides: Mapping[str, Any]
) -> tuple[WeightSource, dict[str, Any]]:
    """Find the network that a published file's arrays belong to.

    Args:
        weights: the file.
        overrides: fields that replace what the file says; ``name`` chooses the architecture.

    Returns:
        The arrays under the names of their architecture's table, and its ``model`` section; with
        ``null_class`` False in it where the network never learnt what stands for no class.

    Raises:
        UserError: no architecture has such arrays, or the named one has no table; or the file says
            something of itself that networks here do not know.
    """
    name = overrides.get("name")
    if name is not None and name not in ARCHITECTURES:
        raise UserError(
            f"published weights of {name!r} cannot be read; those that can are of "
            f"{', '.join(ARCHITECTURES)}"
        )
    near: dict[str, Exception] = {}

    def recognise(view: WeightSource) -> tuple[WeightSource, dict[str, Any]] | None:
        for one in (name,) if name else ARCHITECTURES:
            module = architecture(one)
            try:
                under = getattr(module, "renamed", lambda _: None)(view) or view
                section = module.recognise(under)
            except UserError:
                raise
            except (LookupError, ValueError, TypeError, ArithmeticError) as error:
                near.setdefault(one, error)
                continue
            if section is not None:
                return without_losses(under), {"name": one} | section | overrides
        return None

    found = search(weights, recognise)
    if found is None:
        raise UserError(_unknown(weights, name, near))
    for value in found[1].values():
        if isinstance(value, UserError):
            raise value
    return found


def _unknown(weights: WeightSource, name: str | None, near: Mapping[str, Exception]) -> str:
    names = list(weights.tensors)
    if set(names) >= STATISTICS:
        return (
            f"{weights.path} holds statistics of images ({', '.join(sorted(names))}) and no "
            f"network: evaluation is what takes them"
        )
    about = said.arguments(weights).get("_class_name")
    text = (
        f"{weights.path} ({weights.description}"
        + (f", {about} of diffusers" if isinstance(about, str) else "")
        + f") is of no network known here: its arrays are called "
        f"{', '.join(name[:80] for name in names[:4])}, ...; known are "
        f"{', '.join(ARCHITECTURES)}" + (f", and it is not of {name}" if name else "")
    )
    for one, error in near.items():
        lacks = f"{error.args[0]} is missing" if isinstance(error, LookupError) else str(error)
        text += f". It is most like {one}, but {lacks}"
    return text


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
    try:
        table: Mapping[str, Entry | None] = module.keys(**fields)
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in fields.items() if key != "names")
        raise UserError(
            f"{weights.path}: there is no {section['name']} of {given} ({error})"
        ) from error
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
    found = {entry.path: _converted(weights, name, entry) for name, entry in loaded.items()}
    if section.get(said.NULL) is False:
        found |= {path: _padded(array) for path, array in found.items() if TABLE.fullmatch(path)}
    return found | getattr(module, "absent", lambda *_: {})(weights, section)


def _padded(array: Array) -> Array:
    """Return a table with a row of zeros more, which nothing reads: it stands for no class."""
    rows, width = array.shape
    zeros = np.zeros((1, width), array.dtype)
    return Array(
        (rows + 1, width), array.dtype, lambda: np.concatenate([array.read(), zeros], axis=0)
    )


def _converted(weights: WeightSource, name: str, entry: Entry) -> Array:
    tensor = weights.tensors[name]
    try:
        # An array of one number, repeated without being in memory, shows what becomes of a shape.
        shape = entry.transform(np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)).shape
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{weights.path}: {name} has shape {tensor.shape}, which {entry.path} does not "
            f"({error})"
        ) from error
    return Array(shape, tensor.dtype, lambda: entry.transform(tensor.read()))
