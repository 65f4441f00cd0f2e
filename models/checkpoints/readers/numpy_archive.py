"""Archives of `numpy.savez`: a zip archive with a .npy file for each array."""

import io
from typing import Any

import numpy as np

from .lazy_tensor import LazyTensor, Stored, contiguous_strides, geometry_problem
from .weight_file import RESAVE, OpenFile
from .weight_source import Description, WeightSource
from .zip_directory import Member

FORM = "numpy archive"
ENDING = ".npy"
LONGEST_HEADER = 10_000
# By the version of the header.
READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
REWRITE = "write it again with numpy.savez, which compresses nothing"


def read_numpy_archive(
    opened: OpenFile, members: dict[str, Member], entry: str | None
) -> WeightSource:
    """Read which arrays a numpy archive holds.

    Args:
        opened: the file.
        members: its directory, of .npy files alone.
        entry: has to be None: these files are one state dict.

    Raises:
        UserError: compressed, or with an array that is damaged or of another type than numbers.
    """
    if entry is not None:
        raise opened.file.refused(f"is one state dict and has no entry {entry!r}", "name no entry")
    tensors = {
        name.removesuffix(ENDING): _tensor(opened, name.removesuffix(ENDING), member)
        for name, member in members.items()
    }
    return WeightSource(opened.file.path, tensors, {}, Description(FORM))


def _tensor(opened: OpenFile, name: str, member: Member) -> LazyTensor:
    file = opened.file
    if member.compressed:
        raise file.refused(f"is a numpy archive with {name[:200]!a} compressed", REWRITE)
    shape, fortran, dtype, header = _header(opened, name, member)
    if dtype.kind not in "fiubc" or dtype.itemsize > 16:
        raise file.refused(f"is a numpy archive with {name[:200]!a} of type {dtype}", RESAVE)
    elements, rest = divmod(member.size - header, dtype.itemsize)
    problem = geometry_problem(max(elements, 1), 0, shape, (0,) * len(shape))
    if problem:
        raise file.refused(f"is a numpy archive with {name[:200]!a} with {problem:.400}", RESAVE)
    strides = contiguous_strides(shape[::-1])[::-1] if fortran else contiguous_strides(shape)
    swapped = not dtype.isnative
    stored = Stored(file, member.start + header, member.size - header)
    tensor = LazyTensor(name, shape, dtype.newbyteorder("="), stored, 0, strides, swapped)
    if rest or tensor.size != elements:
        raise file.refused(
            f"is a numpy archive with {name[:200]!a} of shape {shape} in "
            f"{member.size - header} bytes",
            RESAVE,
        )
    return tensor


def _header(opened: OpenFile, name: str, member: Member) -> tuple[Any, bool, np.dtype, int]:
    """Return shape, whether the first axis varies fastest, type, and where the array begins."""
    start = opened.read_at(member.start, min(member.size, LONGEST_HEADER))
    raw = io.BytesIO(start)
    try:
        read = READERS[np.lib.format.read_magic(raw)]
        shape, fortran, dtype = read(raw, max_header_size=LONGEST_HEADER)
    except (ValueError, LookupError, EOFError, TypeError, RecursionError) as error:
        raise opened.file.refused(
            f"is a numpy archive with {name[:200]!a}, which is no array", RESAVE
        ) from error
    return shape, fortran, dtype, raw.tell()
