"""Safetensors files: a JSON header with each array's place, then the arrays."""

import json
import re
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .lazy_tensor import BFLOAT16, LazyTensor, Stored, contiguous_strides, geometry_problem
from .weight_file import DOWNLOAD, OpenFile
from .weight_source import Description, WeightSource

FORM = "safetensors"
LARGEST_HEADER = 8 << 20
DEEPEST = 8
# Text, which may have brackets in it and may not end, or a bracket.
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[][{}]', re.DOTALL)
REWRITE = "write it again with the safetensors library"

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "BF16": BFLOAT16,
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    "C64": np.dtype(np.complex64),
}


def read_safetensors(opened: OpenFile, entry: str | None) -> WeightSource:
    """Read the header of a safetensors file.

    Args:
        opened: the file.
        entry: has to be None: these files are one state dict.

    Raises:
        UserError: a header that is damaged, places arrays over each other or outside the file, or
            has types that are not read (8 bits and fewer).
    """
    file = opened.file
    if entry is not None:
        raise file.refused(f"is one state dict and has no entry {entry!r}", "name no entry")
    header_size = int.from_bytes(opened.read_at(0, 8), "little")
    if header_size > file.size - 8:
        raise opened.truncated(8 + header_size)
    if header_size > LARGEST_HEADER:
        raise file.refused(f"has a header of {header_size} bytes", REWRITE)
    header = _parsed(opened, opened.read_at(8, header_size))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise file.refused("has metadata that is not a dictionary", REWRITE)
    first = 8 + header_size
    tensors = {name: _tensor(opened, name, item, first) for name, item in header.items()}
    if not tensors:
        raise file.refused("holds no tensors", DOWNLOAD)
    _require_tiling(opened, tensors, first)
    try:
        with safe_open(file.path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise file.refused(
            f"is not accepted by the safetensors library ({error})", REWRITE
        ) from error
    return WeightSource(file.path, tensors, metadata, Description(FORM))


def _parsed(opened: OpenFile, raw: bytes) -> dict[str, Any]:
    file = opened.file

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise file.refused(f"names {name[:200]!r} twice in its header", REWRITE)
            found[name] = value
        return found

    if _depth(raw) > DEEPEST:
        raise file.refused("has a header that is nested too deep", DOWNLOAD)
    try:
        header = json.loads(raw, object_pairs_hook=unique)
    except ValueError as error:
        raise file.refused(f"has a header that is not JSON ({error})", DOWNLOAD) from error
    if not isinstance(header, dict):
        raise file.refused("has a header that is not a dictionary", DOWNLOAD)
    return header


def _depth(raw: bytes) -> int:
    """Return how deep brackets are inside each other, up to one beyond `DEEPEST`."""
    depth = deepest = 0
    for token in TOKEN.finditer(raw):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        deepest = max(deepest, depth)
        if deepest > DEEPEST:
            break
    return deepest


def _tensor(opened: OpenFile, name: str, item: Any, first: int) -> LazyTensor:
    file = opened.file
    match item:
        case {"dtype": str() as kind, "shape": list() as shape, "data_offsets": [begin, end]}:
            pass
        case _:
            raise file.refused(f"does not say dtype, shape and place of {name[:200]!r}", REWRITE)
    if kind not in DTYPES:
        raise file.refused(
            f"has {name[:200]!r} as {kind[:40]}, which is not read",
            "convert it to a type of 16 bits or more, such as BF16, first",
        )
    dtype = DTYPES[kind]
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise file.refused(f"places {name[:200]!r} at impossible offsets", REWRITE)
    if first + end > file.size:
        raise opened.truncated(first + end)
    axes = tuple(shape)
    elements, rest = divmod(end - begin, dtype.itemsize)
    problem = geometry_problem(max(elements, 1), 0, axes, (0,) * len(axes))
    if problem:
        raise file.refused(f"has {name[:200]!r} with {problem:.400}", REWRITE)
    stored = Stored(file, first + begin, end - begin)
    tensor = LazyTensor(name, axes, dtype, stored, 0, contiguous_strides(axes))
    if rest or tensor.size != elements:
        raise file.refused(
            f"has {name[:200]!r} of shape {axes} and type {kind} in {end - begin} bytes", REWRITE
        )
    return tensor


def _require_tiling(opened: OpenFile, tensors: dict[str, LazyTensor], first: int) -> None:
    """Arrays follow each other without overlap or gap, up to the end of the file."""
    end, before = first, "the header"
    for name, tensor in sorted(
        tensors.items(), key=lambda item: (item[1].stored.start, item[1].nbytes)
    ):
        start = tensor.stored.start
        if start != end:
            what = "overlap" if start < end else "leave a gap"
            raise opened.file.refused(
                f"has arrays that {what}: {before[:200]!r} and {name[:200]!r}", REWRITE
            )
        end, before = start + tensor.nbytes, name
    if end != opened.file.size:
        raise opened.file.refused(
            f"has {opened.file.size - end} bytes behind its last array", DOWNLOAD
        )
