"""What a checkpoint holds, file by file, so that damage is found and named before it is read.

A checkpoint is taken as whole if its manifest is there and every file is as the manifest says.
"""

import json
import zlib
from pathlib import Path

from ..core.checks import require_choice
from ..core.files import sync_folder, write_json

NAME = "manifest.json"
# How much of a file is compared.
CHECKS = ("contents", "sizes")
CHUNK = 2**22


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file's contents."""
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return total


def write(folder: Path, contents: dict, check: str = "contents") -> None:
    """Describe a folder's files in its manifest.

    Args:
        folder: a checkpoint's, complete but for the manifest.
        contents: what else the manifest holds, JSON data.
        check: ``sizes``, or ``contents`` for checksums too, which reads every file.
    """
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        entry: dict[str, int] = {"bytes": path.stat().st_size}
        if check == "contents":
            entry["crc32"] = checksum(path)
        files[path.relative_to(folder).as_posix()] = entry
    write_json(folder / NAME, contents | {"files": files})
    sync_folder(folder)


def read(folder: Path) -> dict | str:
    """Return a folder's manifest, or in words why it cannot be read."""
    path = folder / NAME
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError) as error:
        return f"{NAME} cannot be read ({error})"
    return found if isinstance(found, dict) and "files" in found else f"{NAME} is not whole"


def damage(folder: Path, file: str, entry: dict, check: str = "contents") -> str | None:
    """Return in words what is wrong with one file, or None.

    Args:
        folder: the checkpoint's.
        file, entry: of the manifest.
        check: ``sizes``, or ``contents`` to compare checksums where the manifest has them.
    """
    path = folder / file
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{file} has {size} bytes and should have {entry['bytes']}"
        if check == "contents" and "crc32" in entry and checksum(path) != entry["crc32"]:
            return f"{file} has other contents than were written"
    except FileNotFoundError:
        return f"{file} is missing"
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    return None


def require_check(name: str) -> str:
    """Return how much of a file is compared.

    Raises:
        UserError: not one of `CHECKS`.
    """
    require_choice("checkpoint.verify", name, CHECKS)
    return name
