"""Arrays that are slow to make, kept in one file each; never a reason for a run to stop."""

import warnings
import zipfile
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from ..core.files import replacing

# What numpy raises for a file that is cut short, altered, empty or something else entirely.
DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


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
    try:
        with replacing(path) as file:
            np.savez(file, **arrays)
    except UserError as error:
        warnings.warn(
            f"cannot keep decoded images in {path.parent} ({error.__cause__}): they stay in memory "
            f"and are decoded again next time; set GUIDESTAR_CACHE to a folder with free space",
            stacklevel=2,
        )
