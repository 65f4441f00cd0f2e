"""How files that a reader refuses are written.

All are small and harmless to any reader: what they ask to load does not exist, and what would grow
meets a limit that its test lowers.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from weight_files import writers as w

# A name on nobody's list of what weight files may use, and of nothing that exists.
MODULE, NAME = "nowhere", "nothing"


@dataclasses.dataclass(frozen=True)
class Refused:
    """A file to refuse.

    Attributes:
        write: writes it at a path.
        refusal: pattern of the message.
        limits: of the readers, ``module.NAME``, at what the test sets them to.
    """

    write: Callable[[Path], None]
    refusal: str
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)


def called() -> bytes:
    """Push what a call of the unknown name returns."""
    return w.call(MODULE, NAME, w.text("x"))


def writes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def in_zip(instructions: bytes, storages: dict[str, bytes] | None = None):
    """Write a torch archive around instructions."""
    members = list(w.zip_members(w.program(instructions), storages or {}))
    return lambda path: w.write_zip(path, members)


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED):
    return lambda path: w.write_zip(path, members, compression)
