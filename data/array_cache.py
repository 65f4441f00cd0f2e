"""Arrays that are slow to make, kept in one file each; never a reason for a run to stop."""

import contextlib
import os
import uuid
import warnings
import zipfile
from pathlib import Path

import numpy as np

# What numpy raises for a file that is cut short, altered, empty or something else entirely.
DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


def folder(chosen: str | os.PathLike | None = None) -> Path:
    """Return the cache folder: ``chosen``, else $GUIDESTAR_CACHE, else ~/.cache/guidestar."""
    return Path(chosen or os.environ.get("GUIDESTAR_CACHE") or "~/.cache/guidestar").expanduser()


def read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """Return the named arrays stored at ``path``; None where there is no file or a damaged one."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:  # checks the checksum of each array
            return {name: stored[name] for name in names}
    except DAMAGED as error:
        warnings.warn(f"{path} is damaged ({error}): making it anew", stacklevel=2)
        return None


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Store ``arrays`` at ``path``, whole or not at all; warn where that is impossible.

    The file is renamed into place when complete, so several processes may write it at once.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        warnings.warn(
            f"cannot keep decoded images in {path.parent} ({error}): they stay in memory and are "
            f"decoded again next time; set GUIDESTAR_CACHE to a folder with free space",
            stacklevel=2,
        )
