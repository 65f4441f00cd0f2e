"""Workers on this machine: the same command in several processes, watched until all have ended."""

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Tells a worker that a launcher has started it, and which one it is. Its standard input ends with
# the launcher, however that ends.
NUMBER = "GUIDESTAR_WORKER"
POLL = 1.0
# What a worker's last words begin with where it has given up.
FAILED = "error: "


class Ended(NamedTuple):
    """How a worker ended.

    Attributes:
        status: as `subprocess` gives it; below 0 it is a signal.
        said: its last words, where it gave up.
    """

    status: int
    said: str


def run_workers(
    words: Sequence[str],
    number: int,
    logs: Path,
    look: Callable[[], Any],
    say: Callable[[str], Any],
) -> list[Ended]:
    """Run a command in several processes at once, and wait for all of them.

    Each finds its number in ``$GUIDESTAR_WORKER``, has an accelerator of its own where there are
    some, and is to stop when its standard input ends.

    Args:
        words: of the command.
        number: of processes.
        logs: a folder for what they say, ``worker-0.log`` and so on, added to what is there.
        look: called every second while they work.
        say: is told of each that did not end well, and how.
    """
    logs.mkdir(parents=True, exist_ok=True)
    workers: list[subprocess.Popen] = []
    told: set[int] = set()
    try:
        for index in range(number):
            with (logs / f"worker-{index}.log").open("ab") as log:
                workers.append(
                    subprocess.Popen(
                        list(words),
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=os.environ | accelerator(index, number) | {NUMBER: str(index)},
                        # An interrupt at the keyboard is the launcher's: it lets them finish.
                        start_new_session=True,
                    )
                )
        working = True
        while working:
            working = any(one.poll() is None for one in workers)
            look()
            for index, one in enumerate(workers):
                if one.returncode and index not in told:
                    told.add(index)
                    say(f"worker {index} {_how(one.returncode, logs / f'worker-{index}.log')}")
            time.sleep(POLL * working)
    finally:
        for one in workers:
            if one.stdin is not None:
                with contextlib.suppress(OSError):
                    one.stdin.close()
        for one in workers:
            one.wait()
    return [
        Ended(one.returncode, _last_words(logs / f"worker-{index}.log") if one.returncode else "")
        for index, one in enumerate(workers)
    ]


def accelerator(
    index: int, number: int, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables that give a worker its GPU, and its share of that one's memory.

    Args:
        index: of the worker.
        number: of workers.
        environment: of the launcher, which may name the GPUs to use.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    found = [one.name.removeprefix("nvidia") for one in Path("/dev").glob("nvidia[0-9]*")]
    cards = [one for one in named.split(",") if one] if named is not None else sorted(found)
    if not cards:
        return {}
    share = 0.9 / math.ceil(number / len(cards))
    memory = environment.get("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.3f}")
    return {
        "CUDA_VISIBLE_DEVICES": cards[index % len(cards)],
        "XLA_PYTHON_CLIENT_MEM_FRACTION": memory,
    }


def _how(status: int, log: Path) -> str:
    if status < 0:
        return f"was ended by signal {-status}"
    return f"gave up ({_last_words(log) or f'status {status}'})"


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    return last.removeprefix(FAILED) if last.startswith(FAILED) else ""
