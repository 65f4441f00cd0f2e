"""This project's weight files: safetensors for the arrays, a JSON sidecar for their origin.

Arrays are written one after another and read one by one: a file may be larger than the memory
that is left.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from ...core.errors import UserError
from .published import find
from .stacking import SEPARATOR

SHIPPED = Path(__file__).resolve().parents[2] / "weights"
# numpy's types by the names that safetensors gives them.
TYPES = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}


@dataclasses.dataclass(frozen=True)
class Array:
    """An array that is read when asked for.

    Attributes:
        shape, dtype: of what `read` returns.
        read: returns the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def save(path: Path, params: Any, model: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write parameters as float16 safetensors, and ``path`` with suffix .json beside it.

    Args:
        path: the .safetensors file; replaced as a whole or not at all.
        params: nested dictionary of arrays.
        model: the config's ``model`` section, from which the network is rebuilt.
        provenance: JSON data: config, commit, steps, data.

    Raises:
        UserError: the parameters do not fit float16, or the file cannot be written.
    """
    half = np.dtype(np.float16)
    arrays = {
        name: Array(value.shape, half, lambda name=name, value=value: _halved(name, value))
        for name, value in flatten(jax.device_get(params)).items()
    }
    write(path, arrays, {"model": dict(model), **provenance})


def _halved(name: str, value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is refused below, by name
        value = np.asarray(value, np.float16, order="C")
    if not np.isfinite(value).all():
        raise UserError(f"{name} has values outside float16 (or NaN): nothing was written")
    return value


def write(path: Path, arrays: Mapping[str, Array], sidecar: Mapping[str, Any]) -> None:
    """Write arrays and their sidecar, one array in memory at a time.

    Args:
        path: the .safetensors file; replaced as a whole or not at all.
        arrays: by name; each is read once.
        sidecar: JSON data; ``model`` in it is the section that the network is rebuilt from.

    Raises:
        UserError: a type that is not kept in such files, or the file cannot be written. What
            reading an array raises passes through, and nothing is written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            _write_arrays(file, arrays)
        path.with_suffix(".json").write_text(json.dumps(dict(sidecar), indent=1) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"writing {path} failed: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _write_arrays(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    header, end = {}, 0
    for name, array in arrays.items():
        dtype = np.dtype(array.dtype)
        if dtype not in NAMES:
            raise UserError(f"{name} is {dtype}: weight files keep {', '.join(map(str, NAMES))}")
        begin, end = end, end + dtype.itemsize * int(np.prod(array.shape, dtype=np.int64))
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # what follows begins at a multiple of 8 bytes
    file.write(len(text).to_bytes(8, "little") + text)
    for name, array in arrays.items():
        value = np.asarray(array.read(), array.dtype, order="C")
        if value.shape != tuple(array.shape):
            raise UserError(f"{name} was to have shape {array.shape} and has {value.shape}")
        file.write(value.reshape(-1).view(np.uint8))


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
    """Return the sidecar beside a weight file; None where there is none.

    Raises:
        UserError: it is damaged, or describes no model.
    """
    beside = path.with_suffix(".json")
    if not beside.exists():
        return None
    try:
        sidecar = json.loads(beside.read_text())
        if not isinstance(sidecar.get("model"), dict):
            raise ValueError("it has no model section")
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{beside} does not describe the weights beside it ({error}): export or import them "
            f"again"
        ) from error
    return sidecar


def resolve(source: str | Path) -> Path:
    """Return the file that ``source`` names: a path, a shipped name or a published file's name.

    Raises:
        UserError: there is none, naming the shipped ones; or a published one is not on disk, with
            its address and where to put it.
    """
    path = Path(source)
    if path.suffix and path.is_file():
        return path
    shipped = SHIPPED / f"{source}.safetensors"
    if shipped.exists():
        return shipped
    if published := find(str(source)):
        return published
    names = sorted(shipped_names())
    raise UserError(
        f"no weights at {str(source)!r}: give the path of a .safetensors, .pt, .pth or .pkl file, "
        f"or one of the shipped names: {', '.join(names)}"
    )


def shipped_names() -> Iterator[str]:
    """Yield the names of the weights that are shipped with the package."""
    return (path.stem for path in SHIPPED.glob("*.safetensors"))
