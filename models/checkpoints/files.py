"""This project's weight files: safetensors for the arrays, a JSON sidecar for their origin."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from ...core.errors import UserError
from ...core.files import Array, home, require_pair, sidecar_path, write_pair
from ..builders import unchecked
from .folders import file_in, require_whole
from .published import find
from .stacking import SEPARATOR

SHIPPED = Path(__file__).resolve().parents[2] / "weights"
# What weights may be kept in, by the names that configs give it.
FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16} | {
    "float32": np.float32,
    "float64": np.float64,
}


def save(
    path: str | os.PathLike, params: Any, model: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write parameters as float16 safetensors, and ``path`` with suffix .json beside it.

    Args:
        path: the .safetensors file; replaced as a whole or not at all.
        params: nested dictionary of arrays.
        model: the ``model`` section that the network is rebuilt from.
        provenance: JSON data: config, commit, steps, data.

    Raises:
        UserError: the parameters do not fit float16, or the file cannot be written.
    """
    half = np.dtype(np.float16)
    arrays = {
        name: Array(value.shape, half, partial(_halved, name, value))
        for name, value in flatten(jax.device_get(params)).items()
    }
    write_pair(home(path), arrays, {"model": dict(model), **provenance})


def _halved(name: str, value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is refused below, by name
        value = np.asarray(value, np.float16)
    if not np.isfinite(value).all():
        raise UserError(f"{name} has values outside float16 (or NaN): nothing was written")
    return value


def flatten(params: Any) -> dict[str, Any]:
    """Return a nested dictionary's leaves by path."""
    flat = traverse_util.flatten_dict(params)
    return {SEPARATOR.join(str(key) for key in keys): value for keys, value in flat.items()}


def unflatten(flat: Iterable[tuple[str, Any]]) -> dict:
    """Return the nested dictionary of leaves by path; the inverse of `flatten`."""
    return traverse_util.unflatten_dict({_keys(name): value for name, value in flat})


def _keys(name: str) -> tuple[str | int, ...]:
    # nnx numbers the members of a list with integers.
    return tuple(int(key) if key.isdigit() else key for key in name.split(SEPARATOR))


def sidecar_of(path: Path) -> dict | None:
    """Return the sidecar beside a weight file; None where there is none of this project.

    Raises:
        UserError: it is of other arrays than the file's.
    """
    sidecar = read_sidecar(path)
    if sidecar is not None:
        require_pair(path, sidecar)
    return sidecar


def read_sidecar(path: Path) -> dict | None:
    """Return the sidecar of a weight file, whether or not the file is there or the one it is of."""
    return _read_sidecar(path)[0]


def foreign(path: Path) -> str:
    """Say of the .json beside a weight file that it is none of this project; empty if none is."""
    _, problem = _read_sidecar(path)
    if not problem:
        return ""
    return (
        f"; {sidecar_path(path)} does not describe the weights beside it ({problem}): if it is "
        f"this project's, export or import them again"
    )


def _read_sidecar(path: Path) -> tuple[dict | None, str]:
    """Return the sidecar, or why what lies in its place is none."""
    beside = sidecar_path(path)
    # A published file may lie beside what was imported of it, under the same name.
    if path.suffix != ".safetensors" or not beside.is_file():
        return None, ""
    try:
        sidecar = json.loads(beside.read_text())
    except (OSError, ValueError, RecursionError) as error:
        return None, f"it is no JSON, {error}"
    model = sidecar.get("model") if isinstance(sidecar, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        return None, "it has no model section"
    return sidecar, ""


def resolve(source: str | os.PathLike, kind: str = "") -> Path:
    """Return the file that ``source`` names: a path, a shipped name or a published file's name.

    A folder stands for the weights in it, or for the index of its shards.

    Args:
        source: what a person named.
        kind: of the network that is wanted, a `Spec.kind`, whose names are offered; any if empty.

    Raises:
        UserError: there is none, naming the shipped ones; or a published one is not on disk, with
            its address and where to put it.
    """
    path = home(source)
    if path.suffix and os.path.isfile(path):  # unlike Path's, false where a path cannot be
        require_whole(path)
        return path
    shipped = SHIPPED / f"{source}.safetensors"
    if os.path.isfile(shipped):
        return shipped
    if str(source) and os.path.isdir(path):
        return file_in(path)
    if published := find(str(source)):
        return published
    names = sorted(shipped_names(kind))
    raise UserError(
        f"no weights at {str(source)!r}: give the path of a .safetensors, .pt, .pth or .pkl file, "
        f"or one of the shipped names: {', '.join(names)}"
    )


def shipped_names(kind: str = "") -> Iterator[str]:
    """Yield the names of the weights that are shipped with the package, those of a kind or all."""
    for path in SHIPPED.glob("*.safetensors"):
        section = json.loads(sidecar_path(path).read_text()).get("model")
        if section and kind in ("", unchecked(section).kind):
            yield path.stem
