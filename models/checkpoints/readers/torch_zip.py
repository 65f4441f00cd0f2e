"""Files of `torch.save` since torch 1.6: a zip archive with a pickle and one member a storage."""

import zlib
from typing import Any

from .allowed import NAMES
from .lazy_tensor import Stored
from .pickle_machine import Allowed, Budget, Machine
from .pickle_vm import interpret
from .records import Storage
from .weight_file import DOWNLOAD, RESAVE, Cursor, OpenFile
from .weight_source import WeightSource, from_object
from .zip_directory import Member

FORM = "torch zip"
PICKLE = "data.pkl"
LARGEST_CHECKED = 64 << 20
ORDERS = {b"little": False, b"big": True}


def read_torch_zip(opened: OpenFile, members: dict[str, Member], entry: str | None) -> WeightSource:
    """Read what a torch archive holds.

    Args:
        opened: the file.
        members: its directory.
        entry: as in `open_weights`.

    Raises:
        UserError: no torch archive, damaged, or with what weight files do not hold.
    """
    file = opened.file
    pickles = [name for name in members if name.split("/")[1:] == [PICKLE]]
    if len(pickles) != 1:
        raise file.refused(_other_archive(members), RESAVE)
    root = pickles[0].removesuffix(PICKLE)
    if f"{root}constants.pkl" in members:
        raise file.refused("is a TorchScript program and not a state dict", RESAVE)
    for member in members.values():
        if member.compressed:
            raise file.refused(
                f"has a compressed member {member.name[:200]!a}, which torch never writes",
                RESAVE,
            )
    swapped = _byte_order(opened, members.get(f"{root}byteorder"))
    storages: dict[str, Storage] = {}

    def persistent(machine: Machine, identifier: Any) -> Storage:
        match identifier:
            case ("storage", Allowed(value=dtype), str() as key, str(), int() as elements):
                pass
            case ("module", *_):
                raise file.refused("holds a whole module, saved with its source", RESAVE)
            case _:
                raise machine.malformed("it refers to what is not a storage")
        if dtype is None:
            raise machine.malformed("a storage of no type")
        if key not in storages:
            storages[key] = Storage(
                dtype, elements, _stored(members.get(f"{root}data/{key}"), key), swapped
            )
        found = storages[key]
        if (found.dtype, found.elements) != (dtype, elements):
            raise machine.malformed(f"storage {key[:40]!r} with two sizes or types")
        size = found.place(file).size
        if elements < 0 or elements * dtype.itemsize != size:
            raise file.refused(
                f"is damaged: storage {key[:40]!r} should have {elements} elements of {dtype} and "
                f"has {size} bytes",
                RESAVE,
            )
        return found

    def _stored(member: Member | None, key: str) -> Stored:
        if member is None:
            raise file.refused(f"has no storage {key[:40]!r}, which its pickle refers to", RESAVE)
        # Zero is what torch writes where checksums are turned off.
        return Stored(file, member.start, member.size, member.checksum or None)

    member = members[pickles[0]]
    _require_intact(opened, member)
    cursor = Cursor(opened, member.start, member.start + member.size)
    return from_object(file, FORM, interpret(cursor, NAMES, Budget(), persistent), entry)


def _require_intact(opened: OpenFile, member: Member) -> None:
    if not member.checksum or member.size > LARGEST_CHECKED:
        return
    if zlib.crc32(opened.read_at(member.start, member.size)) != member.checksum:
        raise opened.file.refused(
            f"is damaged: {member.name[:200]!a} does not have the checksum stored with it", DOWNLOAD
        )


def _byte_order(opened: OpenFile, member: Member | None) -> bool:
    """Say whether the storages are big-endian; files before torch 2.1 do not say and are not."""
    if member is None:
        return False
    order = opened.read_at(member.start, min(member.size, 16))
    if order not in ORDERS:
        raise opened.file.refused(f"has the byte order {order!r}", RESAVE)
    return ORDERS[order]


def _other_archive(members: dict[str, Member]) -> str:
    if any(name.endswith(".npy") for name in members):
        return "is a numpy archive (.npz) with other files in it"
    return "is a zip archive and not a weight file of torch (it has no data.pkl, or several)"
