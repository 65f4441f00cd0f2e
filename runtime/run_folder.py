"""A run's work folder: made, tried for writing, and held by one run at a time.

A lock file names the run that holds it. The system gives its lock up when the process ends,
however it ends. Where a file system passes no locks on to other machines the file's time does it:
the run that holds the folder renews it, and one that is no longer renewed is taken over.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.files import home
from . import distributed

try:
    import fcntl
except ImportError:  # a system without such locks: file times and process numbers are left
    fcntl = None  # type: ignore[assignment]

NAME = ".in_use.json"
# What a folder may hold, and the names that tell it; those of an unfinished one, too.
RUN, DATA_SET, SAMPLES, EVALUATION = "a training run", "a data set", "samples", "an evaluation"
SWEEP, CLASSIFICATION = "a sweep", "a classification"
MARKS = {
    RUN: ("run.json", "checkpoints", "metrics.jsonl"),
    DATA_SET: ("dataset.json", "unfinished.json"),
    SAMPLES: ("sampling.json",),
    EVALUATION: ("evidence.json",),
    SWEEP: ("sweep.json", "sweep.db"),
    CLASSIFICATION: ("classification.json",),
}
# Folders that this process holds: a process is never in the way of its own locks.
_HELD: set[Path] = set()
# Seconds between two renewals, and after how many without one a run elsewhere has ended.
RENEWED, GRACE = 5.0, 60.0


@dataclass(frozen=True)
class Folder:
    """What a mode's work folder becomes, and may hold before.

    Attributes:
        makes: one of `MARKS`; empty for a mode that makes none of these. A folder that holds one
            is gone on with.
        beside: those of `MARKS` that what the mode writes may lie beside.
        held: whether no other run may use it meanwhile. A mode that reads what is there, and that
            another run may still be writing, neither holds it nor makes it.
        shared: whether several runs of the mode write there at once; what each of them is at it
            holds by `held`.
    """

    makes: str = ""
    beside: tuple[str, ...] = ()
    held: bool = True
    shared: bool = False

    def require_fit(self, folder: Path, mode: str) -> None:
        """Refuse a folder that holds what the mode's results do not belong beside.

        Raises:
            UserError: naming what it holds.
        """
        marks = ((what, name) for what, names in MARKS.items() for name in names)
        found = {what: name for what, name in marks if (folder / name).exists()}
        if self.makes in found:
            return
        for what, name in found.items():
            if what not in self.beside:
                raise UserError(
                    f"{folder} holds {what} ({name}), and what --mode={mode} writes does not "
                    f"belong beside it: choose another --workdir"
                )


ANY = Folder(beside=tuple(MARKS))


@contextlib.contextmanager
def claimed(
    workdir: str | os.PathLike,
    mode: str,
    *,
    use: Folder = ANY,
    say: Callable[[str], Any] = distributed.say,
) -> Iterator[Path]:
    """Hold a work folder, made where it is missing, for one run of any mode.

    The processes of one job hold it together; call it in all of them, once they have met
    (`distributed.initialise`). Folders that were made for a run which fails before it has written
    a file are taken away again.

    Args:
        workdir: as a person wrote it, ``~`` being their home.
        mode: what is run there, for the message that others get.
        use: what the mode makes there.
        say: is told that a run elsewhere is waited for.

    Yields:
        The folder, as an absolute path.

    Raises:
        UserError: in every process, a folder that cannot be written, that another run holds, or
            that holds what the mode has no place beside.
    """
    refused, lock = None, None
    folder = _path(workdir)
    if not use.held:
        use.require_fit(folder, mode)
        yield folder
        return
    made = _missing(folder)
    try:
        try:
            _require_writable(folder, workdir)
            if distributed.is_primary():
                if not use.shared:
                    lock = _Held(folder / NAME, mode, say)
                use.require_fit(folder, mode)
        except UserError as error:
            refused = error
        try:
            distributed.agree(refused, f"could not use {workdir}")
            yield folder
        finally:
            if lock is not None:
                lock.release()
    except BaseException:
        _remove_empty(made)
        raise


@contextlib.contextmanager
def held(folder: Path, mode: str, *, say: Callable[[str], Any] = distributed.say) -> Iterator[None]:
    """Hold a folder in this process, whatever other processes of its job do.

    Args:
        folder: one that there is.
        mode, say: as in `claimed`.

    Raises:
        UserError: another run holds it.
    """
    lock = _Held(folder / NAME, mode, say)
    try:
        yield
    finally:
        lock.release()


def _path(workdir: str | os.PathLike) -> Path:
    if not os.fspath(workdir):
        raise UserError("--workdir is empty: name a folder for what the run writes")
    try:
        return home(workdir).absolute()
    except (ValueError, RuntimeError) as error:
        raise _unusable(workdir, error) from error


def _unusable(workdir: str | os.PathLike, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"--workdir={workdir} cannot be written ({reason}): choose another folder")


def _missing(folder: Path) -> list[Path]:
    """Return a folder and those above it that there are not yet, the innermost first."""
    with contextlib.suppress(OSError, ValueError):
        return [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    return []


def _require_writable(folder: Path, workdir: str | os.PathLike) -> None:
    """Create a work folder and check that files can be written there."""
    probe = folder / f".writable.{socket.gethostname()}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (OSError, ValueError, RuntimeError) as error:
        raise _unusable(workdir, error) from error


def _remove_empty(made: list[Path]) -> None:
    """Remove folders that were made and hold no file, whatever folders lie in them."""
    with contextlib.suppress(ValueError):  # a name that no folder can have
        below = [Path(one) for top in made[:1] for one, _, _ in os.walk(top, topdown=False)]
        for folder in (*below, *made[1:]):
            with contextlib.suppress(OSError):
                folder.rmdir()


class _Held:
    """The lock of a folder, from construction to `release`."""

    def __init__(self, path: Path, mode: str, say: Callable[[str], Any]):
        self._path, self._folder = path, path.parent.resolve()
        if self._folder in _HELD:
            raise UserError(self._in_use(_this_run(mode)))
        self._file = self._locked(mode, say)
        _HELD.add(self._folder)
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="work folder", daemon=True)
        self._renewal.start()

    def release(self) -> None:
        """Let another run have the folder."""
        self._ended.set()
        self._renewal.join()
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)
        _HELD.discard(self._folder)

    def _locked(self, mode: str, say: Callable[[str], Any]) -> int:
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(
                    f"{self._path} cannot be opened ({error.strerror}): choose another --workdir"
                ) from error
            try:
                if self._free(file, say):
                    os.ftruncate(file, 0)
                    os.pwrite(file, json.dumps(_this_run(mode)).encode(), 0)
                    return file
            except BaseException:
                os.close(file)
                raise
            # Released, and removed, between its opening and its locking.
            os.close(file)

    def _free(self, file: int, say: Callable[[str], Any]) -> bool:
        """Lock an open file; say whether it is still the folder's."""
        holder, locked = _read(file), _lock(file)
        if locked is False:
            raise UserError(self._in_use(holder))
        try:
            if not os.path.samestat(os.fstat(file), os.stat(self._path)):
                return False
        except FileNotFoundError:
            return False
        if holder and holder.get("machine") != machine():
            self._wait_for(file, holder, say)
        elif holder and locked is None and _lives(holder):
            raise UserError(self._in_use(holder))
        return True

    def _wait_for(self, file: int, holder: dict, say: Callable[[str], Any]) -> None:
        """Return once a run on another machine has gone so long without renewing the file."""
        before = os.fstat(file).st_mtime
        # By the clock of whoever keeps the files, which is not this machine's.
        probe = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        probe.touch()
        left = GRACE - (probe.stat().st_mtime - before)
        probe.unlink()
        if left > 0:
            say(f"{self._in_use(holder)}. Waiting up to {left:.0f} s to see whether it has ended")
        end = time.monotonic() + left
        while (now := time.monotonic()) < end:
            time.sleep(min(1.0, end - now))
            # Through the path: what is open may be remembered as it was.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_mtime != before:
                    raise UserError(self._in_use(holder))

    def _in_use(self, holder: dict) -> str:
        who = ", ".join(
            f"{word} {holder[key]}"
            for word, key in (
                ("--mode", "mode"),
                ("process", "pid"),
                ("on", "host"),
                ("since", "start"),
            )
            if key in holder
        )
        return (
            f"{self._path.parent} is in use by another run ({who or 'which is just starting'}): "
            f"wait for it or end it, or choose another --workdir"
        )

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def _lock(file: int) -> bool | None:
    """Lock an open file; False where another process has, None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        # Of the process, and not of those that it forks: they may outlive it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _this_run(mode: str) -> dict:
    return {
        "mode": mode,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": machine(),
    }


def machine() -> str:
    """Return what tells this machine, since it was started, from any other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _lives(holder: dict) -> bool:
    try:
        os.kill(int(holder["pid"]), 0)
    except (KeyError, TypeError, ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _read(file: int) -> dict:
    """Return what a lock file says; nothing where it is new or not whole."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
