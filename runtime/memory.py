"""How much memory is free, so that what cannot fit is refused before it is begun."""

import contextlib
import ctypes
import sys
from pathlib import Path

from ..core.errors import UserError

MEMINFO = Path("/proc/meminfo")


def free_memory() -> int | None:
    """Return the bytes of memory that can still be had; None where the system does not say."""
    try:
        for entry in MEMINFO.read_text().splitlines():
            if entry.startswith("MemAvailable:"):
                return int(entry.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what takes more memory than there is.

    Args:
        needed: bytes.
        what: takes them, for the message.
        remedy: what to do.

    Raises:
        UserError: there are fewer.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"{what} take about {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free: "
            f"{remedy}"
        )


def return_memory() -> None:
    """Give back to the system what was freed and is kept for later, where the C library can.

    glibc keeps large arrays that were freed among smaller ones: networks that are read one after
    another would take ever more memory than one of them.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
