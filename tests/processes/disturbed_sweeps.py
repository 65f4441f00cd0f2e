"""Kill a sweep's workers and its launcher, go on, and require every trial once.

    PYTHONPATH=tests python tests/processes/disturbed_sweeps.py --config=configs/sweeps/digits.py \
        --workdir=out/disturbed [--config.sweep.storage=...]

Two workers; one is killed when a few trials are finished, the launcher when some more are, both by
SIGKILL. The worker that is left must stop by itself, and the same command must finish the sweep.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from places import ROOT

LIMIT = 1800


def launched(arguments: list[str]) -> subprocess.Popen:
    """Start the sweep with two workers."""
    words = [sys.executable, str(ROOT / "main.py"), *arguments, "--mode=sweep"]
    return subprocess.Popen([*words, "--config.sweep.workers=2"], cwd=ROOT)


def children(process: subprocess.Popen) -> list[int]:
    """Return the numbers of a process's own processes."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(one) for one in text.split()]


def finished(workdir: Path) -> int:
    """Return how many trials a sweep has finished."""
    try:
        return len(json.loads((workdir / "sweep.json").read_text())["rows"])
    except (OSError, ValueError):
        return 0


def until(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Wait for a moment, while a process runs."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        assert process is None or process.poll() is None, "it ended before it was disturbed"
        time.sleep(0.02)


def disturb(arguments: list[str], workdir: Path) -> dict:
    """Run a sweep to its end through two deaths; return what happened when."""
    began = time.monotonic()
    launcher = launched(arguments)
    until(lambda: finished(workdir) >= 2, launcher)
    victim, survivor = children(launcher)[:2]
    os.kill(victim, signal.SIGKILL)
    at_worker = finished(workdir)
    until(lambda: finished(workdir) >= at_worker + 2, launcher)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    at_launcher, stopping = finished(workdir), time.monotonic()
    until(lambda: not Path(f"/proc/{survivor}").exists())
    stopped = time.monotonic() - stopping
    left_at, again = finished(workdir), launched(arguments)
    assert again.wait(timeout=LIMIT) == 0, "the second launch did not finish"
    return {
        "worker killed after": at_worker,
        "launcher killed after": at_launcher,
        "last worker stopped after seconds": round(stopped, 1),
        "second launch began after": left_at,
        "seconds in all": round(time.monotonic() - began, 1),
    }


def main(arguments: list[str]) -> None:
    """Disturb a sweep, and print what became of it."""
    (workdir,) = (Path(one.partition("=")[2]) for one in arguments if one.startswith("--workdir="))
    happened = disturb(arguments, workdir)
    record = json.loads((workdir / "sweep.json").read_text())
    logs = "".join(one.read_text() for one in (workdir / "workers").iterdir())
    assert "Fatal Python error" not in logs, "a worker did not end well"
    lines = [line for line in logs.splitlines() if line.startswith("trial ")]
    made = Counter(int(line.split()[1].strip(",")) for line in lines)
    total = record["sweep"]["trials"]
    assert sorted(row["trial"] for row in record["rows"].values()) == list(range(total))
    # One that was killed may have finished a trial that it had not told of yet.
    assert set(made) <= set(range(total)) and set(made.values()) == {1}, made
    print(json.dumps(happened | {"trials": total, "finished twice": 0}))


if __name__ == "__main__":
    main(sys.argv[1:])
