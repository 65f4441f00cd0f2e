"""Files of `torch.save` before torch 1.6: five pickles, then the storages one after another.

Also what a torch storage becomes inside an ordinary pickle (`edm_pickle.py`): such a file, as a
bytes object.
"""

import dataclasses
from typing import Any

from .allowed import NAMES
from .lazy_tensor import Stored
from .pickle_machine import Allowed, Budget, Machine
from .pickle_vm import interpret
from .records import Storage
from .weight_file import DOWNLOAD, RESAVE, Cursor, OpenFile, Span, WeightFile
from .weight_source import WeightSource, from_object

FORM = "torch legacy"
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_torch_legacy(opened: OpenFile, entry: str | None) -> WeightSource:
    """Read what a file of an old torch holds.

    Args:
        opened: the file.
        entry: as in `open_weights`.

    Raises:
        UserError: damaged, or with what weight files do not hold.
    """
    root = read_legacy_object(opened, Span(0, opened.file.size), Budget())
    return from_object(opened.file, FORM, root, entry)


def read_legacy_object(opened: OpenFile, span: Span, budget: Budget) -> Any:
    """Interpret the torch file that lies at ``span`` and return its object, storages placed."""
    file = opened.file
    cursor = Cursor(opened, span.start, span.start + span.size)
    if interpret(cursor, {}, budget) != MAGIC:
        raise file.refused("does not begin with torch's magic number", DOWNLOAD)
    if interpret(cursor, {}, budget) != PROTOCOL:
        raise file.refused(f"has another file protocol than torch's {PROTOCOL}", RESAVE)
    system = interpret(cursor, {}, budget)
    if not isinstance(system, dict) or type(system.get("little_endian", True)) is not bool:
        raise file.refused("does not say which system wrote it", DOWNLOAD)
    pool = _Pool(swapped=not system.get("little_endian", True))
    root = interpret(cursor, NAMES, budget, pool.persistent)
    keys = interpret(cursor, {}, budget)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise file.refused("has no list of its storages", DOWNLOAD)
    if sorted(keys) != sorted(pool.storages):
        raise file.refused("lists other storages than its tensors refer to", DOWNLOAD)
    for key in keys:
        storage = pool.storages[key]
        elements = cursor.unsigned(8)
        if elements != storage.elements:
            raise file.refused(
                f"is damaged: storage {key[:40]!r} has {elements} elements where its tensors "
                f"expect {storage.elements}",
                DOWNLOAD,
            )
        placed = cursor.span(elements * storage.dtype.itemsize)
        storage.stored = Stored(file, placed.start, placed.size)
    for view in pool.views.values():
        view.place(file)
    return root


@dataclasses.dataclass(eq=False)
class _View:
    """A storage that is a part of another one."""

    part: Storage
    whole: Storage
    first: int

    def place(self, file: WeightFile) -> None:
        """Note where the part lies, now that the whole has its place."""
        size = self.part.dtype.itemsize
        whole = self.whole.place(file)
        self.part.stored = Stored(
            whole.file, whole.start + self.first * size, self.part.elements * size
        )


@dataclasses.dataclass
class _Pool:
    """The storages that a pickle refers to, before the file says where they are."""

    swapped: bool
    storages: dict[str, Storage] = dataclasses.field(default_factory=dict)
    views: dict[str, _View] = dataclasses.field(default_factory=dict)

    def persistent(self, machine: Machine, identifier: Any) -> Storage:
        """Return the storage that ``identifier`` means."""
        match identifier:
            case ("storage", Allowed(value=kind), str() as key, str(), int() as elements, view):
                pass
            case ("module", *_):
                raise machine.file.refused("holds a whole module, saved with its source", RESAVE)
            case _:
                raise machine.malformed("it refers to what is not a storage")
        if kind is None or elements < 0:
            raise machine.malformed("a storage of no type or size")
        machine.charge(200)
        whole = self.storages.setdefault(key, Storage(kind, elements, swapped=self.swapped))
        if (whole.dtype, whole.elements) != (kind, elements):
            raise machine.malformed(f"storage {key[:40]!r} with two sizes or types")
        match view:
            case None:
                return whole
            case (str() as name, int() as first, int() as size) if (
                0 <= first <= first + size <= elements and size >= 0
            ):
                part = Storage(kind, size, swapped=self.swapped)
                known = self.views.setdefault(name, _View(part, whole, first))
                if (known.whole, known.first, known.part.elements) != (whole, first, size):
                    raise machine.malformed(f"two views called {name[:40]!r}")
                return known.part
        raise machine.malformed("a part that its storage does not have")
