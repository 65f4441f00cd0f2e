"""What the interpreter builds in place of torch's, numpy's and EDM's objects: inert records."""

import dataclasses
import math
from typing import Any

import numpy as np

from .lazy_tensor import Stored, geometry_problem
from .pickle_machine import Machine, Stateful
from .weight_file import DOWNLOAD, Span, WeightFile


@dataclasses.dataclass(eq=False)
class Storage:
    """A run of elements that tensors are views of.

    Attributes:
        dtype: of an element; bytes where the storage is untyped.
        elements: how many.
        stored: where the bytes are; the legacy format says so only after its pickle.
        swapped: big-endian.
    """

    dtype: np.dtype
    elements: int
    stored: Stored | None = None
    swapped: bool = False

    def place(self, file: WeightFile) -> Stored:
        """Return where the bytes are.

        Raises:
            UserError: nothing in the file says so.
        """
        if self.stored is None:
            raise file.refused("has a tensor whose storage is not in it", DOWNLOAD)
        return self.stored


@dataclasses.dataclass(eq=False, slots=True)
class TensorRecord:
    """A torch tensor: a view of a storage, in elements of ``dtype``."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class DtypeRecord(Stateful):
    """A numpy dtype while its byte order is still to come."""

    dtype: np.dtype
    swapped: bool = False

    def set_state(self, machine: Machine, state: Any) -> None:
        """Take the byte order."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise machine.wrong("numpy.dtype")
        self.swapped = state[1] == ">"


@dataclasses.dataclass(eq=False)
class ArrayRecord(Stateful):
    """A numpy array, whose content comes as its state."""

    dtype: np.dtype | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    stored: Stored | None = None
    swapped: bool = False

    def set_state(self, machine: Machine, state: Any) -> None:
        """Take shape, dtype, order and bytes."""
        match state:
            case (int(), tuple() as shape, DtypeRecord() as kind, bool() as fortran, data):
                self.fill(machine, shape, kind, fortran, data)
            case _:
                raise machine.wrong("numpy.ndarray")

    def fill(
        self, machine: Machine, shape: tuple, kind: DtypeRecord, fortran: bool, data: Any
    ) -> None:
        """Note what the array is, after making sure that its bytes are as many as it needs."""
        match data:
            case Span(start=start, size=size):
                self.stored = Stored(machine.file, start, size)
            case bytes():
                size = len(data)
                self.stored = Stored(machine.file, 0, size, held=data)
            case _:
                raise machine.wrong("numpy.ndarray")
        elements, rest = divmod(size, kind.dtype.itemsize)
        problem = geometry_problem(elements, 0, shape, (0,) * len(shape))
        if problem:
            raise machine.malformed(f"an array with {problem:.400}")
        if rest or math.prod(shape) != elements:
            raise machine.malformed(f"an array of shape {shape} in {size} bytes")
        self.dtype, self.shape, self.fortran, self.swapped = (
            kind.dtype,
            shape,
            fortran,
            kind.swapped,
        )


@dataclasses.dataclass(eq=False)
class ObjectRecord(Stateful):
    """An object of a class that is not loaded: its class name and its state."""

    class_name: str
    state: Any = dataclasses.field(default_factory=dict)

    def set_state(self, machine: Machine, state: Any) -> None:
        """Take the attributes."""
        if type(state) is not dict:
            raise machine.wrong(self.class_name)
        self.state = state


class Attributes(dict, Stateful):
    """The attributes of an argparse.Namespace."""

    def set_state(self, machine: Machine, state: Any) -> None:
        """Take the attributes."""
        if type(state) is not dict:
            raise machine.wrong("argparse.Namespace")
        machine.charge(100 * len(state))
        self.update(state)
