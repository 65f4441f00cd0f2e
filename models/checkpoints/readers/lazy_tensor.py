"""Arrays that stay in their file until they are asked for."""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ....core.errors import UserError
from .weight_file import DOWNLOAD, WeightFile

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MOST_AXES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """The bytes that arrays are cut from.

    Attributes:
        file: the file they came from, named in messages.
        start: where they begin in it.
        size: how many they are.
        checksum: CRC-32 of all of them, or None where the format keeps none.
        held: the bytes themselves, in the rare format that encodes them as text.
    """

    file: WeightFile
    start: int
    size: int
    checksum: int | None = None
    held: bytes | None = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on."""
        if self.held is not None:
            buffer[:] = self.held[offset : offset + len(buffer)]
            return
        with self.file.opened() as opened:
            opened.read_into(self.start + offset, buffer)


@dataclasses.dataclass(frozen=True, slots=True)
class LazyTensor:
    """An array in a weight file; nothing of it is in memory before ``read``.

    Attributes:
        name: its key in the state dict.
        shape, dtype: as stored (bfloat16 is ml_dtypes').
        stored: the bytes it is cut from.
        offset, strides: where it begins in them and how its axes step through them, in elements.
        swapped: the bytes are big-endian.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored: Stored
    offset: int
    strides: tuple[int, ...]
    swapped: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that ``read`` returns."""
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Return the array, contiguous and in native byte order; non-finite values are left alone.

        Raises:
            UserError: the file was changed, cannot be read or does not have its checksum.
        """
        if not self.size:
            return np.empty(self.shape, self.dtype)
        extent = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        # A bool of any byte but 0 and 1 is undefined in numpy.
        kind = np.dtype(np.uint8) if self.dtype == np.bool_ else self.dtype
        flat = np.empty(extent, kind)
        raw = flat.view(np.uint8).data
        self.stored.read_into(self.offset * kind.itemsize, raw)
        self._check(raw)
        if self.swapped:
            flat.byteswap(inplace=True)
        if kind != self.dtype:
            flat = flat != 0
        dense = contiguous_strides(self.shape)
        if all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, dense, strict=True)):
            return flat.reshape(self.shape)
        steps = tuple(step * flat.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False).copy("C")

    def _check(self, raw: memoryview) -> None:
        whole = len(raw) == self.stored.size
        if self.stored.checksum is None or not whole or zlib.crc32(raw) == self.stored.checksum:
            return
        raise self.stored.file.refused(
            f"is damaged: {self.name} does not have the checksum stored with it", DOWNLOAD
        )


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array whose last axis varies fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def geometry_problem(elements: int, offset: Any, shape: Any, strides: Any) -> str | None:
    """Say why a view does not fit ``elements`` stored elements; None where it does."""
    for what, numbers in (("shape", shape), ("strides", strides)):
        if not isinstance(numbers, tuple) or not all(type(n) is int for n in numbers):
            return f"{what} that are not whole numbers"
        if any(not 0 <= n < 1 << 63 for n in numbers):
            return f"{what} with a number that is negative or beyond 64 bits"
    if len(shape) > MOST_AXES or len(shape) != len(strides):
        return f"{len(shape)} axes with {len(strides)} strides (at most {MOST_AXES} are read)"
    if type(offset) is not int or offset < 0:
        return "an offset that is negative or not a whole number"
    if math.prod(shape) == 0:
        return None
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= elements:
        return f"shape {shape}, which reaches element {last} of a storage of {elements}"
    return None


def require_finite(name: str, array: np.ndarray) -> np.ndarray:
    """Return ``array``, a tensor called ``name``, if every number in it is finite.

    Raises:
        UserError: NaN or infinity in it, counted.
    """
    if array.dtype.kind in "biu":
        return array
    flat = array.reshape(-1)
    # In blocks: a mask of a whole embedding table would be a third of its size again.
    bad = sum(
        int(np.count_nonzero(~np.isfinite(flat[at : at + (1 << 20)])))
        for at in range(0, flat.size, 1 << 20)
    )
    if bad:
        raise UserError(
            f"{name} has {bad} of {array.size} values that are NaN or infinite: these weights are "
            "damaged or from a run that diverged; take another file or an earlier checkpoint"
        )
    return array
