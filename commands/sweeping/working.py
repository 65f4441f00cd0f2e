"""What a worker of a sweep does: one trial after another, until none is left."""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm

from ...runtime import distributed
from ...runtime.study import COMPLETE, Claim, Lost, Study, trial_folder
from ...runtime.workers import NUMBER
from ..measuring.rows import said
from .progress import bar_of, move
from .trials import Sweep

# Seconds between two looks of a worker that has nothing to do.
POLL = 1.0


class Stopped(Exception):
    """The worker was asked to stop; what it was making is left to others."""


def work(sweep: Sweep, study: Study | None) -> None:
    """Work on trials until none is left, or until asked to stop."""
    with _asked_to_stop() as stop, bar_of(study) as bar:
        while (found := _next(sweep, study, stop)) is not None:
            place, trial, claim = found
            made = 0

            def advance(count: int, claim=claim, place=place) -> None:
                nonlocal made
                made += count
                bar.set_postfix_str(f"trial {place}: {made} images")
                # Several processes of one worker go on or stop together, between two trials.
                if claim is not None and jax.process_count() == 1:
                    claim.require()
                    if stop.is_set():
                        raise Stopped

            try:
                state, row, value = sweep.measured(place, trial, claim, advance)
                if claim is not None and study is not None:
                    claim.finish(state, row, value)
                    _ended(sweep, study, row, bar)
            except Lost:
                # Whoever has it now goes on with the images that are there.
                continue
            except Stopped:
                break
            finally:
                if claim is not None:
                    claim.release()


def _next(
    sweep: Sweep, study: Study | None, stop: threading.Event
) -> tuple[int, dict[str, Any], Claim | None] | None:
    """Return the next trial, the same in all processes of a worker; None where none is left."""
    claim, found = None, {"place": -1, "trial": {}}
    failed: Exception | None = None
    try:
        if study is not None:
            claim = _claimed(study, stop)
        while claim is not None and study is not None:
            trial = sweep.trials[claim.place] if sweep.trials else claim.proposed(sweep.space)
            found = {"place": claim.place, "trial": trial}
            if sweep.trials or not sweep.known(study, claim, trial):
                break
            claim, found = _claimed(study, stop), {"place": -1, "trial": {}}
    except Exception as error:  # told to the others, who would wait for ever
        failed = error
        if claim is not None:
            claim.release()
    distributed.agree(failed, "could not claim a trial")
    found = json.loads(distributed.text_from_primary(json.dumps(found)))
    if found["place"] < 0:
        return None
    trial = sweep.trials[found["place"]] if sweep.trials else found["trial"]
    return found["place"], trial, claim


def _claimed(study: Study, stop: threading.Event) -> Claim | None:
    """Wait for a trial that nobody has; None once all are finished."""
    while not stop.is_set():
        if (claim := study.claim()) is not None:
            return claim
        if len(study.finished()) == study.places:
            return None
        # Others are at work on what is left, and may die.
        stop.wait(POLL)
    return None


def _ended(sweep: Sweep, study: Study, row: Mapping[str, Any], bar: tqdm) -> None:
    sweep.write(study)
    if not sweep.keeps:
        shutil.rmtree(trial_folder(sweep.workdir, row["trial"]), ignore_errors=True)
    move(bar, study)
    words = said(row) if row["state"] == COMPLETE else f"{row['title']}: {row['state']}"
    bar.write(f"trial {row['trial']}, {words}")


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Return what is set when this worker is to stop: by SIGTERM, or by its launcher's end."""
    stop = threading.Event()
    told: list[str] = []

    def by_signal(*_) -> None:
        told.append("SIGTERM")
        stop.set()

    def by_launcher() -> None:
        # Nothing is written to it: it ends when the launcher does, however that is. Not through
        # Python's buffer, whose lock would be held when this process ends first.
        while os.read(sys.stdin.fileno(), 1):
            pass
        stop.set()

    alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, by_signal) if alone else None
    if NUMBER in os.environ:
        threading.Thread(target=by_launcher, name="launcher", daemon=True).start()
    try:
        yield stop
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before)
        if told:
            distributed.say(
                "stopped by SIGTERM: trials that are finished are kept, and the same command goes "
                "on with the others"
            )
