"""Files, whole or not at all: text, JSON, arrays with what is said of them; digests and folders.

Arrays are safetensors: each is written in row-major order whatever its memory layout (safetensors'
own numpy writer stores a transposed array's bytes as they lie), one after another, so that a file
may be larger than the memory that is left. What is said of them lies beside them as JSON and
names the digest of the arrays it belongs to.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from .errors import UserError

BLOCK = 2**24
# Bytes from which a file takes longer to write than times of modification are fine.
LARGE = 2**26
# What the name of a file may not have in it.
UNSAFE = set("/\\'\"`")
# How much of a file `sketch` reads.
SKETCH_BLOCKS, SKETCH_BYTES = 16, 2**12
# numpy's types by the names that safetensors gives them.
TYPES = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "I32": np.int32,
    "I64": np.int64,
    "U8": np.uint8,
}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
# The key under which a sidecar names the digest of its arrays.
DIGEST = "arrays_sha256"


def home(path: str | os.PathLike) -> Path:
    """Return a path as a person wrote it, ``~`` being their home."""
    return Path(path).expanduser()


def cache_folder(chosen: str | os.PathLike | None = None) -> Path:
    """Return the cache folder: ``chosen``, else $GUIDESTAR_CACHE, else ~/.cache/guidestar."""
    return home(chosen or os.environ.get("GUIDESTAR_CACHE") or "~/.cache/guidestar")


def safe_name(name: str, what: str) -> str:
    """Return a name that is to become that of a file.

    Raises:
        UserError: empty, or with a separator, a quote, a line's end or a leading dot in it, in the
            name of ``what``.
    """
    if not name.isprintable() or not name or name.startswith(".") or UNSAFE & set(name):
        raise UserError(
            f"{what} is {name!r}: give the name of a file, without separators and quotes and not "
            f"beginning with a dot"
        )
    return name


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes its place when it is whole, and not at all where that fails.

    Args:
        path: of the file.
        durable: whether to wait until the disk has it, so that it outlives a loss of power; small
            files of which there are many, and which can be made again, need not.

    Raises:
        UserError: the disk refuses; what was there before stays.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"writing {path} failed: {error.strerror or error}. Mend that and run the same command "
            f"again: it goes on where it stopped"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes, *, durable: bool = True) -> None:
    """Write a file, whole or not at all; see `replacing`."""
    with replacing(path, durable=durable) as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text as UTF-8, whole or not at all; see `replacing`."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Write JSON data, whole or not at all; see `replacing`."""
    write_bytes(path, _as_json(data))


def _as_json(data: Any) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def read_json(path: str | os.PathLike, remedy: str) -> Any:
    """Return JSON data.

    Raises:
        UserError: it cannot be read; ``remedy`` says what to do.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}") from error


def sync_folder(folder: Path) -> None:
    """Ask for a folder's entries to be on disk, where the file system knows how."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: str | os.PathLike) -> str:
    """Return a file's SHA-256, in hexadecimal; a large file that has not changed is read once."""
    found = os.stat(path)
    if found.st_size < LARGE:
        return _sha256(os.fspath(path))
    return _sha256_of_large(os.fspath(path), found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of_large(path: str, *version: int) -> str:
    del version  # another one is another entry
    return _sha256(path)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return digest_of_parts(iter(lambda: file.read(BLOCK), b""))


def sketch(path: str | os.PathLike) -> str:
    """Return checksums of 16 short blocks spread over a file, 8 hexadecimal digits each.

    They tell one large file from another at the cost of a few reads; see `sha256` for small ones.
    """
    size = os.stat(path).st_size
    length = min(SKETCH_BYTES, -(-size // SKETCH_BLOCKS))
    found = []
    with open(path, "rb") as file:
        for block in range(SKETCH_BLOCKS):
            file.seek(block * (size - length) // (SKETCH_BLOCKS - 1))
            found.append(f"{zlib.crc32(file.read(length)):08x}")
    return "".join(found)


def digest_of(data: Any) -> str:
    """Return the SHA-256 of JSON data, whatever the order of its keys."""
    return digest_of_parts([json.dumps(data, sort_keys=True)])


def digest_of_parts(parts: Iterable[str | bytes | memoryview | np.ndarray]) -> str:
    """Return the SHA-256 of texts (as UTF-8), bytes and arrays (in row-major order) in a row."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            part = np.asarray(part, order="C").reshape(-1).view(np.uint8).data
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


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


def write_arrays(
    path: str | os.PathLike, arrays: Mapping[str, Array | np.ndarray | np.generic]
) -> str:
    """Write a safetensors file, one array in memory at a time; return its SHA-256.

    Args:
        path: replaced as a whole or not at all.
        arrays: by name; of any memory layout. Each `Array` is read once.

    Raises:
        UserError: a type that is not kept in such files, or the file cannot be written. What
            reading an array raises passes through, and nothing is written.
    """
    with replacing(path) as file:
        return _write_into(file, arrays)


def _write_into(file: BinaryIO, arrays: Mapping[str, Array | np.ndarray | np.generic]) -> str:
    known = {name: _described(array) for name, array in arrays.items()}
    places, end = {}, 0
    for name, array in known.items():
        if array.dtype not in NAMES:
            raise UserError(
                f"{name} is {array.dtype}: array files keep {', '.join(map(str, NAMES))}"
            )
        begin, end = end, end + array.dtype.itemsize * int(np.prod(array.shape, dtype=np.int64))
        places[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(places).encode()
    text += b" " * (-len(text) % 8)  # what follows begins at a multiple of 8 bytes
    digest = hashlib.sha256()
    header = len(text).to_bytes(8, "little") + text
    for part in itertools.chain([header], itertools.starmap(_content, known.items())):
        digest.update(part)
        file.write(part)
        del part  # before the next array is read
    return digest.hexdigest()


def _described(array: Array | np.ndarray | np.generic) -> Array:
    if isinstance(array, Array):
        return dataclasses.replace(array, dtype=np.dtype(array.dtype))
    value = np.asarray(array)
    return Array(value.shape, value.dtype, lambda: value)


def _content(name: str, array: Array) -> bytes | memoryview:
    value = np.asarray(array.read(), array.dtype, order="C")
    if value.shape != tuple(array.shape):
        raise UserError(f"{name} was to have shape {array.shape} and has {value.shape}")
    return value.reshape(-1).view(np.uint8).data


def sidecar_path(path: str | os.PathLike) -> Path:
    """Return where the JSON beside an array file lies."""
    return Path(path).with_suffix(".json")


def write_pair(
    path: str | os.PathLike,
    arrays: Mapping[str, Array | np.ndarray | np.generic],
    sidecar: Mapping[str, Any],
) -> None:
    """Write arrays, and beside them JSON data that names their digest.

    Both are whole on disk before either takes its place; a stop just between the two leaves
    arrays with the JSON of others, which `require_pair` refuses.

    Raises:
        UserError: as `write_arrays`.
    """
    with replacing(sidecar_path(path)) as beside, replacing(path) as file:
        digest = _write_into(file, arrays)
        beside.write(_as_json({**sidecar, DIGEST: digest}))
        beside.flush()
        os.fsync(beside.fileno())


def require_pair(path: str | os.PathLike, sidecar: Mapping[str, Any]) -> None:
    """Refuse arrays that are not those their sidecar was written with.

    Raises:
        UserError: naming both files. Sidecars that name no digest pass.
    """
    wanted = sidecar.get(DIGEST)
    if wanted and sha256(path) != wanted:
        raise UserError(
            f"{sidecar_path(path)} is of other arrays than those in {path}: one of the two was "
            f"replaced alone. Copy both files again, or write them again"
        )
