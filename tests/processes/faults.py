"""Disturb a training run in every way that a machine does, and count what became of it.

    PYTHONPATH=tests python tests/processes/faults.py [--kill=30] [--terminate=10] [...]

Each run is disturbed several times, one way after another or many times in one, and continued by
the same command. It must end with every number of the undisturbed run, or stop with an error that
says what is lost and how to go on. Half an hour on two busy cores, and no privileges needed; as
root, a full disk is a small tmpfs beside a limit on the size of files.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from places import ROOT

STEPS, EVERY = 90, 4
COMMAND = [
    *(sys.executable, "main.py", "--config=tests/tiny_configs/command_line.py", "--mode=train"),
    *(f"--config.training.steps={STEPS}", f"--config.checkpoint.every_steps={EVERY}"),
    *("--config.log.every_steps=1", "--config.log.tensorboard=True"),
]
# A clock that shows last year's date, for every library in the process.
CLOCK = """
import time
_seconds, _nanoseconds = time.time, time.time_ns
time.time = lambda: _seconds() - 400 * 86400
time.time_ns = lambda: _nanoseconds() - 400 * 86400 * 10**9
"""
DAY = 86400


class Failure(Exception):
    """What a disturbed run did that it must not do."""


def require(condition: bool, message: str) -> None:
    """Raise a `Failure` where a condition does not hold."""
    if not condition:
        raise Failure(message)


class Run:
    """A training run in a folder of its own, started as often as it takes.

    Args:
        workdir: its folder.
        cache: of compiled programs, shared by all runs.
        chance: decides moments and files.
    """

    def __init__(self, workdir: Path, cache: Path, chance: random.Random):
        self.workdir, self.chance, self._log = workdir, chance, workdir.with_suffix(".log")
        self._environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }

    def start(self, *, limit: int | None = None, path: str = "") -> subprocess.Popen:
        """Start it; ``limit`` bounds a file's size in KiB, ``path`` goes before python's own."""
        bound = [] if limit is None else ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash"]
        with self._log.open("w") as log:
            return subprocess.Popen(
                [*bound, *COMMAND, f"--workdir={self.workdir}"],
                cwd=ROOT,
                env=self._environment | ({"PYTHONPATH": path} if path else {}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def finish(self, expected: int = 0, **start) -> str:
        """Start it and wait; return what it printed."""
        process = self.start(**start)
        return self.ended(process, expected)

    def ended(self, process: subprocess.Popen, expected: int) -> str:
        """Wait for it; return what it printed."""
        status = process.wait(timeout=600)
        printed = self._log.read_text(errors="replace")
        require(status == expected, f"status {status}, not {expected}: ...{printed[-1500:]}")
        return printed

    @property
    def step(self) -> int:
        """The last step in its record."""
        try:
            lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
            return json.loads(lines[-1])["step"]
        except (OSError, ValueError, IndexError):
            return 0

    @property
    def saved(self) -> list[int]:
        """Steps of finished checkpoints."""
        folder = self.workdir / "checkpoints"
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(path.name) for path in found if path.name.isdigit())

    def until(self, process: subprocess.Popen, condition: Callable[[], bool]) -> None:
        """Wait for a moment in a running process."""
        deadline = time.monotonic() + 300
        while not condition():
            require(time.monotonic() < deadline, "nothing happened for five minutes")
            if process.poll() is not None:
                break
            time.sleep(0.002)

    def begun(self) -> bool:
        """Say whether the last start has said what it will do, so that it takes signals."""
        return "results in" in self._log.read_text(errors="replace")

    def some_steps(self, process: subprocess.Popen, most: int = STEPS // 7) -> None:
        """Wait for a random number of further steps."""
        goal = self.step + self.chance.randint(1, most)
        self.until(process, lambda: self.step >= goal)

    def interrupted(self) -> None:
        """Run it to somewhere in the middle, with at least two checkpoints, and kill it."""
        process = self.start()
        self.until(process, lambda: len(self.saved) >= 2 and self.step > STEPS // 4)
        process.kill()
        process.wait()
        require(self.step < STEPS, "it ended before it could be interrupted")

    def results(self) -> list[Path]:
        """Return all that lies in the folder but the mark of the run that holds it."""
        return sorted(path for path in self.workdir.rglob("*") if path.name != ".in_use.json")

    def files_of(self, step: int) -> list[Path]:
        """Return the files of a checkpoint, the largest first."""
        folder = self.workdir / "checkpoints" / str(step)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return sorted(files, key=lambda path: (-path.stat().st_size, path))


def kill(run: Run, times: int) -> None:
    """``kill -9`` at any moment: while it starts, compiles, trains or saves."""
    for _ in range(times):
        process = run.start()
        if run.chance.random() < 0.25:
            time.sleep(run.chance.uniform(0, 8))
        else:
            run.some_steps(process)
        process.kill()
        process.wait()


def terminate(run: Run, times: int) -> None:
    """SIGTERM: it saves where it is, says so and ends with status 0."""
    for _ in range(times):
        process = run.start()
        run.until(process, run.begun)
        if run.chance.random() < 0.8:
            run.some_steps(process, STEPS // (times + 2))
        process.send_signal(signal.SIGTERM)
        printed = run.ended(process, 0)
        if run.saved[-1] < STEPS:
            said = f"stopped by SIGTERM: step {run.saved[-1]} is saved"
            require(said in printed, f"it did not say: {said}")
            require(run.step == run.saved[-1], "it was not saved where it stopped")


def full_disk(run: Run, times: int) -> None:
    """No more than so many bytes fit into a file: a clear error, and room again."""
    for _ in range(times):
        if not run.saved:
            run.interrupted()
        newest = run.saved[-1]
        printed = run.finish(1, limit=run.files_of(newest)[0].stat().st_size // 2048)
        require(
            "error: " in printed and f"it continues from step {newest}" in printed,
            f"no clear error: ...{printed[-600:]}",
        )
        require(run.saved[-1] == newest, "a checkpoint appeared that cannot be whole")


def full_tmpfs(run: Run, times: int) -> None:
    """A file system of few bytes that fills up."""
    for _ in range(times):
        run.workdir.mkdir(exist_ok=True)
        mounted = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(run.workdir)]
        subprocess.run(mounted, check=True, capture_output=True)
        try:
            printed = run.finish(1)
            require("run the same command again" in printed, f"no error: ...{printed[-600:]}")
            larger = ["mount", "-o", "remount,size=64m", str(run.workdir)]
            subprocess.run(larger, check=True, capture_output=True)
            run.finish()
            kept = run.workdir.with_suffix(".kept")
            shutil.copytree(run.workdir, kept)
        finally:
            subprocess.run(["umount", str(run.workdir)], check=True, capture_output=True)
        shutil.rmtree(run.workdir)
        kept.rename(run.workdir)


def truncated(run: Run, times: int) -> None:
    """A file of the newest checkpoint lacks its end: it is named, and the one before used."""
    for _ in range(times):
        run.interrupted()
        *_, before, newest = run.saved
        file = run.chance.choice([f for f in run.files_of(newest) if f.stat().st_size])
        os.truncate(file, file.stat().st_size // 2)
        check_fallback(run, before, newest, file.name)


def deleted(run: Run, times: int) -> None:
    """A file of the newest checkpoint is gone: it is named, and the one before used."""
    for _ in range(times):
        run.interrupted()
        *_, before, newest = run.saved
        file = run.chance.choice(run.files_of(newest))
        file.unlink()
        check_fallback(run, before, newest, file.name)


def check_fallback(run: Run, before: int, newest: int, name: str) -> None:
    """Continue a run whose newest checkpoint is damaged, and stop it again."""
    process = run.start()
    run.until(process, lambda: run.begun() and run.step > before)
    process.kill()
    process.wait()
    printed = run._log.read_text(errors="replace")
    require(
        f"checkpoint {newest} is damaged: " in printed
        and name in printed
        and f"going on from step {before}" in printed,
        f"the damage was not named: ...{printed[-600:]}",
    )


def unreadable(run: Run, times: int) -> None:
    """No checkpoint is whole: it stops, says what is lost, changes nothing; then a copy helps."""
    for number in range(times):
        run.interrupted()
        folder, copy = run.workdir / "checkpoints", run.workdir.with_suffix(".copy")
        newest = run.saved[-1]
        shutil.copytree(folder, copy)
        if number % 2:
            shutil.rmtree(folder)
        else:
            for step in run.saved:
                run.files_of(step)[0].unlink()
        left = run.results()
        printed = run.finish(1)
        require(
            f"should hold step {newest}" in printed
            and "is lost unless" in printed
            and "another --workdir" in printed,
            f"it does not say what is lost: ...{printed[-600:]}",
        )
        require(run.results() == left, "it changed files that it could not use")
        shutil.rmtree(folder, ignore_errors=True)
        copy.rename(folder)


def clock(run: Run, times: int) -> None:
    """The clock is set back, and files come from the future."""
    with tempfile.TemporaryDirectory() as patched:
        (Path(patched) / "sitecustomize.py").write_text(CLOCK)
        for number in range(times):
            for path in run.workdir.rglob("*"):
                os.utime(path, (time.time() + (400 - 800 * (number % 2)) * DAY,) * 2)
            process = run.start(path=patched)
            run.some_steps(process, STEPS // (times + 2))
            process.kill()
            process.wait()


# name -> how it is done, how often by default, how often in one run.
FAULTS: dict[str, tuple[Callable[[Run, int], None], int, int]] = {
    "kill": (kill, 30, 6),
    "terminate": (terminate, 10, 5),
    "full-disk": (full_disk, 2, 2),
    "full-tmpfs": (full_tmpfs, 1, 1),
    "truncated": (truncated, 3, 1),
    "deleted": (deleted, 3, 1),
    "unreadable": (unreadable, 2, 1),
    "clock": (clock, 3, 3),
}


def may_mount() -> bool:
    """Say whether this process may mount a tmpfs."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        try:
            done = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False
        if done:
            subprocess.run(["umount", folder], check=True)
        return done


def final_numbers(workdir: Path) -> dict[str, bytes]:
    """Return every array of a run's last checkpoint, and its losses, as bytes."""
    import jax
    from tiny_configs.configs import last_checkpoint, tiny

    from guidestar.runtime.sharding import path_of

    step, state, extra = last_checkpoint(tiny(steps=STEPS), workdir)
    require(step == STEPS and extra["random"]["step"] == STEPS, f"it ended at step {step}")
    arrays = {
        path_of(keys): jax.device_get(leaf).tobytes()
        for keys, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = [(record["step"], record["loss"]) for record in records]
    require([n for n, _ in losses] == list(range(1, STEPS + 1)), "steps are missing in its record")
    return arrays | {"losses": repr(losses).encode(), "position": repr(extra["position"]).encode()}


def disturb(folder: Path, counts: dict[str, int], seed: int) -> tuple[Counter, list[str]]:
    """Do every fault as often as asked.

    Args:
        folder: for the runs.
        counts: how often each of `FAULTS`.
        seed: of moments and files.

    Returns:
        How often each fault was done and survived, and what went wrong otherwise.
    """
    cache, survived, wrong = folder / "cache", Counter(), []
    whole = Run(folder / "undisturbed", cache, random.Random(seed))
    whole.finish()
    expected = final_numbers(whole.workdir)
    for name, count in counts.items():
        fault, _, together = FAULTS[name]
        if count and name == "full-tmpfs" and not may_mount():
            print("full-tmpfs: not done, mounting needs root", flush=True)
            continue
        for number, first in enumerate(range(0, count, together)):
            times = min(together, count - first)
            run = Run(folder / f"{name}-{number}", cache, random.Random(f"{seed}/{name}/{number}"))
            began = time.monotonic()
            try:
                fault(run, times)
                run.finish()
                found = final_numbers(run.workdir)
                different = [key for key in expected if found.get(key) != expected[key]]
                require(not different, f"differs from the undisturbed run in {different[:4]}")
                survived[name] += times
                outcome = "the undisturbed run's parameters, bit for bit"
            except Failure as failure:
                wrong.append(f"{name}-{number}: {failure}")
                outcome = f"FAILED: {failure}"
            seconds = time.monotonic() - began
            print(f"{name} x {times}: {outcome} ({seconds:.0f} s)", flush=True)
    return survived, wrong


def main(arguments: list[str]) -> int:
    """Run from the command line; return the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, (fault, default, _) in FAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=fault.__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--folder", type=Path, help="where the runs are kept; else thrown away")
    given = vars(parser.parse_args(arguments))
    seed, kept = given.pop("seed"), given.pop("folder")
    counts = {name: given[name.replace("-", "_")] for name in FAULTS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = kept or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        survived, wrong = disturb(folder.absolute(), counts, seed)
    print(f"\nseed {seed}; of each fault, done and survived:")
    for name, count in counts.items():
        print(
            f"  {name:12} {survived[name]:3} of {count:3}  {FAULTS[name][0].__doc__.split(':')[0]}"
        )
    print("\n".join(wrong) if wrong else "nothing was lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main(sys.argv[1:]))
