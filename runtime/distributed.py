"""Several hosts that run one program: how they meet, agree on a number, and stop together.

What talks to the other processes is called by all of them or by none; with one process each such
function is trivial.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..core.errors import NoResult, UserError
from ..core.files import digest_of

# Set for each process by launchers that `jax.distributed.initialize` understands without arguments.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


def initialise(section: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> bool:
    """Join the other hosts, before anything else touches a device; with one host do nothing.

    Args:
        section: ``coordinator``, ``"host:port"`` with ``count`` processes of
            which this is number ``index``; ``"auto"`` to find all three from Cloud TPU, SLURM or
            Open MPI; empty to do that where a launcher's variables say there are several.
        environment: those variables.

    Returns:
        Whether this process is one of several.

    Raises:
        UserError: a count or an index that does not fit, or hosts that cannot be joined.
    """
    coordinator, count, index = (section[name] for name in ("coordinator", "count", "index"))
    arguments: dict[str, Any] = {}
    if coordinator and coordinator != "auto":
        if count < 1 or not 0 <= index < count or ":" not in coordinator:
            raise UserError(
                f"hosts: coordinator {coordinator!r}, count {count}, index {index}: give "
                f"the first host as host:port, how many processes there are, and which of them "
                f"this is, counted from 0"
            )
        if count == 1:
            return False
        arguments = dict(coordinator_address=coordinator, num_processes=count, process_id=index)
    elif not coordinator and not _launched_as_several(environment):
        return False
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"hosts: this process could not join the others ({' '.join(str(error).split())})"
            f": check that all of them were started and reach {coordinator or 'the first one'}"
        ) from error
    return jax.process_count() > 1


def _launched_as_several(environment) -> bool:
    counts = [environment.get(name, "") for name in COUNTS]
    workers = [environment.get(name, "") for name in WORKERS]
    return any(n.isdigit() and int(n) > 1 for n in counts) or any("," in w for w in workers)


def is_primary() -> bool:
    """Say whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def say(message: str, *, error: bool = False) -> None:
    """Print a line once, from the primary process; to stderr where it is about an error."""
    if is_primary():
        stream = sys.stderr if error else sys.stdout
        stream.write(f"{message}\n")
        stream.flush()


def from_primary(number: int) -> int:
    """Return the primary process's number, below 2^31, in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def array_from_primary(array: np.ndarray) -> np.ndarray:
    """Return the primary process's array in every process; all give one of its shape and type.

    The type is of at most 32 bits.
    """
    if jax.process_count() == 1:
        return array
    return np.asarray(multihost_utils.broadcast_one_to_all(array), array.dtype)


def text_from_primary(text: str) -> str:
    """Return the primary process's text in every process."""
    if jax.process_count() == 1:
        return text
    encoded = np.frombuffer(text.encode(), np.uint8)
    held = np.zeros(from_primary(len(encoded)), np.uint8)
    return array_from_primary(encoded if is_primary() else held).tobytes().decode()


def from_all(number: int) -> list[int]:
    """Return the number of every process, below 2^31, in their order."""
    if jax.process_count() == 1:
        return [number]
    return [int(n) for n in multihost_utils.process_allgather(np.int32(number))]


def agree(error: BaseException | None, what: str) -> None:
    """Wait for all processes, and raise in each of them where one has failed.

    Args:
        error: what this process failed with; None where it has not.
        what: what a process that has failed could not do, for the message of the others.

    Raises:
        UserError: another process has failed; `NoResult` where that is what it has failed with.
    """
    failed = from_all(0 if error is None else 2 if isinstance(error, NoResult) else 1)
    if error is not None:
        raise error
    if any(failed):
        first = next(index for index, one in enumerate(failed) if one)
        kind = NoResult if failed[first] == 2 else UserError
        raise kind(f"process {first} {what}: its own message says why")


def require_equal(data: Any, what: str) -> None:
    """Refuse processes that go by different things, each of its own disk or command.

    Args:
        data: JSON data of this process.
        what: it is, for the message.

    Raises:
        UserError: in every process, another one's differs from the primary's.
    """
    found = from_all(int(digest_of(data)[:7], 16))
    different = [index for index, one in enumerate(found) if one != found[0]]
    if different:
        raise UserError(
            f"process {different[0]} differs from process 0 in {what}: start all of them by the "
            f"same command, on the same files"
        )


def meet(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Termination:
    """A context in which SIGTERM, what schedulers send before they take a machine, is a request.

    With several hosts a signal to one is passed on, and all stop at the same later step.
    """

    def __init__(self):
        self._received = False
        self._before = None

    def __enter__(self) -> "Termination":
        # Several processes have a handler since they joined; Python's would take its place.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, *_) -> None:
        self._received = True

    def requested(self, step: int) -> bool:
        """Say whether to stop after ``step``; asked after every step, by every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received
