"""How hostile files are written: each beside a canary that it would create if it ran anything."""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path

from weight_files import writers as w

CANARY = "canary"


@dataclasses.dataclass(frozen=True)
class Hostile:
    """A file to refuse: what writes it at a path, and a pattern in the message."""

    write: Callable[[Path], None]
    refusal: str


def canary(path: Path) -> bytes:
    """Push the path of the canary."""
    return w.text(str(path.parent / CANARY))


def command(path: Path) -> bytes:
    """Push the shell command that creates the canary beside ``path``."""
    return w.text(f"touch {path.parent / CANARY}")


def writes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def in_zip(instructions: bytes, storages: dict[str, bytes] | None = None):
    """Write a torch archive around instructions."""
    members = list(w.zip_members(w.program(instructions), storages or {}))
    return lambda path: w.write_zip(path, members)


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED):
    return lambda path: w.write_zip(path, members, compression)
