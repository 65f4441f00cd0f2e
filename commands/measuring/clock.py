"""How long a row's images took, over all runs that made some of them."""

import time
from pathlib import Path

import jax

from ...core.files import read_json, write_json
from ...runtime import distributed


class Clock:
    """The seconds that a row's images took, over all runs that made some of them.

    Args:
        path: keeps them between runs.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path):
        self._path, self._since = path, time.monotonic()
        self._kept = {"images": 0, "seconds": 0.0}
        if path.exists():
            remedy = "remove it, and how long earlier images took is not known any more"
            self._kept |= read_json(path, remedy)

    def __call__(self, count: int) -> None:
        """Count images that were just made, here and in as many in every other process."""
        now = time.monotonic()
        self._kept["images"] += count * jax.process_count()
        self._kept["seconds"] += now - self._since
        self._since = now
        if distributed.is_primary():
            write_json(self._path, self._kept)

    def seconds(self, count: int) -> float | None:
        """Return the seconds of ``count`` images; None where some were made without this clock."""
        return self._kept["seconds"] if self._kept["images"] >= count else None
