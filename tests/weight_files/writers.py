"""Weight files written by hand, instruction by instruction: the formats without their frameworks.

A pickle here is bytes put together from the functions below, so that a test can write what a
framework would, and what no framework would.
"""

import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from guidestar.models.checkpoints.readers.torch_legacy import MAGIC, PROTOCOL

STORAGE_NAMES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
    np.dtype(np.complex64): "ComplexFloatStorage",
}


def program(*parts: bytes, protocol: int = 2) -> bytes:
    """Return a whole pickle."""
    return pickle.PROTO + bytes([protocol]) + b"".join(parts) + pickle.STOP


def text(value: str) -> bytes:
    """Push text."""
    raw = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def data(value: bytes) -> bytes:
    """Push bytes."""
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


def whole(value: int) -> bytes:
    """Push a whole number."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(raw)]) + raw


def bundle(*parts: bytes) -> bytes:
    """Push a tuple."""
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def table(items: dict[str, bytes]) -> bytes:
    """Push a dictionary with text for keys."""
    pairs = b"".join(text(name) + value for name, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def dotted(module: str, name: str) -> bytes:
    """Push what a dotted name stands for."""
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Push what a call of a dotted name returns."""
    return dotted(module, name) + bundle(*arguments) + pickle.REDUCE


def storage(key: str, kind: str, elements: int, *more: bytes) -> bytes:
    """Push a storage that lies outside the pickle."""
    parts = text("storage"), dotted("torch", kind), text(key), text("cpu"), whole(elements)
    return bundle(*parts, *more) + pickle.BINPERSID


def tensor(stored: bytes, shape, strides=None, offset: int = 0) -> bytes:
    """Push a tensor that is a view of the storage pushed by ``stored``."""
    if strides is None:
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        stored,
        whole(offset),
        bundle(*map(whole, shape)),
        bundle(*map(whole, strides)),
        pickle.NEWFALSE,
        call("collections", "OrderedDict"),
    )


def state_dict(arrays: dict[str, np.ndarray], *more: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return instructions that push a state dict, and its storages by key."""
    items, storages = {}, {}
    for index, (name, array) in enumerate(arrays.items()):
        kind = STORAGE_NAMES[array.dtype]
        storages[str(index)] = array.tobytes()
        items[name] = tensor(storage(str(index), kind, array.size, *more), array.shape)
    return table(items), storages


def zip_members(content: bytes, storages: dict[str, bytes], root: str = "archive"):
    """Return the members of a torch archive as pairs of name and content."""
    yield f"{root}/data.pkl", content
    yield f"{root}/byteorder", b"little"
    for key, raw in storages.items():
        yield f"{root}/data/{key}", raw
    yield f"{root}/version", b"3\n"


def write_zip(path: Path, members, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive of pairs of name and content."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def write_torch_zip(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write arrays as `torch.save` does."""
    instructions, storages = state_dict(arrays)
    return write_zip(path, zip_members(program(instructions), storages))


def legacy(content: bytes, storages: dict[str, tuple[int, bytes]], little: bool = True) -> bytes:
    """Return a file of old torch: a pickle, and for each key number of elements and bytes."""
    system = {"protocol_version": PROTOCOL, "little_endian": little}
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, system)]
    parts += [content, pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", elements) + raw for elements, raw in storages.values()]
    return b"".join(parts)


def torch_legacy(arrays: dict[str, np.ndarray]) -> bytes:
    """Return arrays as `torch.save` wrote them before torch 1.6."""
    instructions, storages = state_dict(arrays, pickle.NONE)
    sizes = [array.size for array in arrays.values()]
    stored = dict(zip(storages, zip(sizes, storages.values(), strict=True), strict=True))
    return legacy(program(instructions), stored)


def pickled_tensor(array: np.ndarray) -> bytes:
    """Push a tensor whose storage is inside the pickle, as a legacy file."""
    reference = storage("7", STORAGE_NAMES[array.dtype], array.size, pickle.NONE)
    inner = legacy(program(reference), {"7": (array.size, array.tobytes())})
    return tensor(call("torch.storage", "_load_from_bytes", data(inner)), array.shape)


def module(
    class_name: str,
    parameters: dict[str, bytes],
    modules: dict[str, bytes] | None = None,
    source: str = "",
    **attributes: bytes,
) -> bytes:
    """Push a module of a persistent class, as EDM pickles it."""
    state = {
        "training": pickle.NEWFALSE,
        "_parameters": table(parameters),
        "_buffers": table({}),
        "_modules": table(modules or {}),
        **attributes,
    }
    meta = {
        "type": text("class"),
        "version": whole(6),
        "module_src": text(source),
        "class_name": text(class_name),
        "state": table(state),
    }
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", table(meta))
