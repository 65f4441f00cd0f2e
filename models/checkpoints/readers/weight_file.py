"""A file of published weights as bounded bytes: what is read is in it, and refusals name it."""

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from ....core.errors import UserError
from ....core.files import home

DOWNLOAD = "download it again and compare its size and checksum with the published ones"
RESAVE = "save the state dict alone, as safetensors or with torch.save(model.state_dict(), path)"
BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """A regular file as it was when it was opened first.

    Attributes:
        path: where it is.
        size: its bytes.
        modified: its time of modification, nanoseconds; arrays are read later, from the same file.
    """

    path: Path
    size: int
    modified: int

    @classmethod
    def at(cls, path: str | Path) -> "WeightFile":
        """Look at ``path`` without reading it.

        Raises:
            UserError: nothing there, no regular file (a folder, a pipe, a loop of links), or empty.
        """
        path = home(path)
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{path}: {reason}; give the path of a weight file") from error
        if stat.S_ISDIR(found.st_mode):
            raise UserError(f"{path}: is a folder; give the path of the weight file in it")
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: is not a regular file; give the path of a weight file")
        file = cls(path, found.st_size, found.st_mtime_ns)
        if not file.size:
            raise file.refused("is empty", DOWNLOAD)
        return file

    def refused(self, problem: str, advice: str) -> UserError:
        """Return the error that says what is wrong with this file and what to do."""
        return UserError(f"{self.path}: {problem}; {advice}")

    @contextlib.contextmanager
    def opened(self) -> Iterator["OpenFile"]:
        """Open it for reading, and make sure that it is still the file that was looked at."""
        try:
            handle = open(self.path, "rb", buffering=0)  # noqa: SIM115  (closed just below)
        except OSError as error:
            raise self.refused(f"cannot be read ({error.strerror})", "check it") from error
        with handle:
            now = os.fstat(handle.fileno())
            if (now.st_size, now.st_mtime_ns) != (self.size, self.modified):
                raise self.refused("changed while it was being read", "start again")
            yield OpenFile(self, handle)


@dataclasses.dataclass(frozen=True)
class OpenFile:
    """A weight file with a handle to read from."""

    file: WeightFile
    handle: FileIO

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on; a UserError where the file has fewer."""
        if offset < 0 or size < 0 or offset + size > self.file.size:
            raise self.truncated(offset + size)
        buffer = bytearray(size)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with what lies from ``offset`` on."""
        self.handle.seek(offset)
        done = 0
        while done < len(buffer):
            try:
                count = self.handle.readinto(buffer[done:])
            except OSError as error:
                raise self.file.refused(f"cannot be read ({error.strerror})", "check it") from error
            if not count:
                raise self.truncated(offset + len(buffer))
            done += count

    def truncated(self, wanted: int) -> UserError:
        """Return the error of a file that ends too early."""
        return self.file.refused(
            f"is cut short or damaged: something in it reaches to byte {wanted} and it has "
            f"{self.file.size}",
            DOWNLOAD,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the file that have not been read: they lie in ``[start, start + size)``."""

    start: int
    size: int


class Cursor:
    """Reads a window of a file from its start to its end, buffered."""

    def __init__(self, opened: OpenFile, start: int = 0, stop: int | None = None):
        self.opened = opened
        self.file = opened.file
        self.position = start
        self.stop = opened.file.size if stop is None else stop
        self._block = b""
        self._block_start = start

    @property
    def left(self) -> int:
        """Bytes between here and the end of the window."""
        return self.stop - self.position

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        begin = self.position - self._block_start
        if begin + size > len(self._block):
            self._require(size)
            self._block = self.opened.read_at(self.position, min(self.left, max(size, BLOCK)))
            self._block_start, begin = self.position, 0
        self.position += size
        return self._block[begin : begin + size]

    def span(self, size: int) -> Span:
        """Step over the next ``size`` bytes and return where they lie."""
        self._require(size)
        span = Span(self.position, size)
        self.position += size
        return span

    def line(self, limit: int) -> bytes:
        """Return what comes before the next newline, which has to be within ``limit`` bytes."""
        taken = bytearray()
        while (byte := self.read(1)) != b"\n":
            taken += byte
            if len(taken) > limit:
                raise self.file.refused(f"has a line of more than {limit} bytes", RESAVE)
        return bytes(taken)

    def unsigned(self, size: int) -> int:
        """Return the next ``size`` bytes as a little-endian unsigned integer."""
        return int.from_bytes(self.read(size), "little")

    def _require(self, size: int) -> None:
        if size > self.left:
            raise self.file.refused(
                f"is cut short or damaged: at byte {self.position} it announces {size} bytes and "
                f"{self.left} are left",
                DOWNLOAD,
            )
