"""The sweep mode: many trials of one config, on as many workers as there are, each made once.

A trial is the config with some fields replaced, as a command line would replace them, evaluated as
--mode=evaluate does one row. `get_hyper` of the config's file says which trials there are, or
Optuna proposes them.
"""

import contextlib
import csv
import io
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from ..core.checks import count, positive, require_ranges
from ..core.errors import NoResult, UserError
from ..core.files import digest_of, read_json, write_json, write_text
from ..runtime import distributed
from ..runtime.identity import differences, plain
from ..runtime.run_folder import SWEEP, Folder
from ..runtime.study import (
    COMPLETE,
    FAILED,
    PRUNED,
    SAMPLERS,
    Claim,
    Finished,
    Lost,
    Pruning,
    Storage,
    Study,
    require_space,
    trial_folder,
)
from ..runtime.workers import NUMBER, run_workers
from .config import hyper, reading
from .config.overrides import command, extended, given, override
from .evaluate import READS as EVALUATED
from .evaluate import Evaluation, described_row, flat, said
from .sample import Output

# Several workers are there at once, and each holds the folder of the trial that it is at.
WORKDIR = Folder(makes=SWEEP, shared=True)
# The program that workers run.
MAIN = Path(__file__).resolve().parent.parent / "main.py"
RECORD, TABLE = "sweep.json", "sweep.csv"
GRID = "grid"
# What this mode reads of a config: what evaluations read, but rows, which are the trials here.
READS = (*(one for one in EVALUATED if one not in ("rows", "claims")), "sweep")
# What a trial may not change: it would be another experiment, or nothing that a trial could do.
FIXED = ("evaluation", "sweep", *reading.ALWAYS)
RANGES = {
    "workers": count(1),
    "lease": positive(),
    "seed": count(0),
    "trials": count(0, "0 are those of get_hyper"),
    "pruning.images": count(0, "0 is never"),
    "pruning.startup": count(0),
}
DIRECTIONS = ("minimize", "maximize")
# Seconds between two looks of a worker that has nothing to do.
POLL = 1.0


class Stopped(Exception):
    """The worker was asked to stop; what it was making is left to others."""


def run(config, workdir: Path) -> None:
    """Run the trials of a sweep that are left, and write what came out.

    Args:
        config: of an experiment that has ``evaluation``, with the section ``sweep``.
        workdir: gets ``sweep.json`` and ``sweep.csv``, rewritten as trials finish; a folder of
            images a trial below ``trials``; and the storage, unless ``sweep.storage`` names one.

    Raises:
        UserError: anything in any trial that cannot run, before the first begins; another sweep's
            storage, or one that cannot be reached; trials that are left when all workers are gone.
    """
    launching = config.sweep.workers > 1 and NUMBER not in os.environ
    if launching or config.sweep.dry_run:
        # Accelerators are the workers'.
        jax.config.update("jax_platforms", "cpu")
    elif jax.process_count() > 1 and config.sweep.workers > 1:
        raise UserError(
            f"sweep.workers is {config.sweep.workers}, and this is one of several processes that "
            f"are one worker together: leave it at 1, and start other workers by themselves"
        )
    sweep = Sweep(config, workdir)
    if config.sweep.dry_run:
        print("\n".join(sweep.announced()))
        return
    if launching:
        study = sweep.study()
        try:
            sweep.launch(study)
        finally:
            sweep.write(study)
    else:
        study = sweep.study() if distributed.is_primary() else None
        _work(sweep, study)
    if study is not None:
        sweep.write(study)
        _told(study, workdir)


class Sweep:
    """The trials of a config.

    Args:
        config: of an experiment.
        workdir: of the sweep.

    Attributes:
        trials: fields and their values, trial by trial; empty where Optuna proposes them.
        keeps: whether images stay when their trial is finished.
        space: what Optuna proposes from, by field; empty where `get_hyper` says the trials.
        places: how many trials there are.

    Raises:
        UserError: anything in any trial that cannot run.
    """

    def __init__(self, config, workdir: Path):
        self.config, self.workdir, chosen = config, workdir, config.sweep
        numbers = chosen.to_dict()
        numbers |= {f"pruning.{name}": value for name, value in numbers.pop("pruning").items()}
        require_ranges("sweep", {name: numbers[name] for name in RANGES}, RANGES)
        for field, allowed in (("sampler", (GRID, *SAMPLERS)), ("direction", DIRECTIONS)):
            if chosen[field] not in allowed:
                raise UserError(f"sweep.{field} {chosen[field]!r} is none of {', '.join(allowed)}")
        if "rows" in config:
            raise UserError(
                "this config has rows, which --mode=evaluate measures, and the rows of a sweep are "
                "its trials: take them out, and say in `guidance` what trials begin from"
            )
        self.how = Evaluation(config, workdir)
        self._small = chosen.pruning.images
        kept = chosen.keep_images
        self.keeps = chosen.sampler == GRID if kept is None else bool(kept)
        if chosen.sampler == GRID:
            self._require_grid()
            self.trials = hyper.defined(chosen.definition or given(config).file.partition(":")[0])
            self.space: dict[str, dict] = {}
            self.places = len(self.trials)
        else:
            self.trials = []
            self.space = self._search()
            self.places = chosen.trials
        self._outputs: dict[str, Output] = {}
        # A launcher has looked at all of them before it starts its workers.
        looked_at = self._examples() if NUMBER not in os.environ else self._examples()[:1]
        for name, trial in looked_at:
            self._outputs[name] = self.planned(name, workdir, trial)
        notes = self.how.notes(self._outputs)
        if self._small:
            notes += self.how.notes(self._outputs, self._small)
        if NUMBER not in os.environ:
            for note in dict.fromkeys(notes):
                distributed.say(f"note: {note}")

    def _require_grid(self) -> None:
        chosen = self.config.sweep
        for field in ("trials", "space", "pruning.images"):
            section, _, name = field.rpartition(".")
            if (chosen[section] if section else chosen)[name]:
                raise UserError(
                    f"sweep.{field} is for a search, and sweep.sampler is {GRID}, whose trials "
                    f"get_hyper says: leave it out, or set sweep.sampler=tpe"
                )

    def _search(self) -> dict[str, dict]:
        chosen = self.config.sweep
        space = {}
        for section in plain(list(chosen.space)):
            if not isinstance(section, dict) or "field" not in section:
                raise UserError(
                    f"sweep.space has {section!r}: each entry is a section with field, and low and "
                    f"high or choices, as in configs/sweeps/search_digits.py"
                )
            space[section.pop("field").removeprefix(hyper.PREFIX)] = section
        require_space(space, "sweep.space")
        require_ranges("sweep", {"trials": chosen.trials}, {"trials": count(1)})
        if self._small >= self.how.count:
            raise UserError(
                f"sweep.pruning.images is {self._small}, and evaluation.count {self.how.count}: "
                f"a small sample comes before the whole, so give fewer"
            )
        return space

    def _examples(self) -> list[tuple[str, dict[str, Any]]]:
        """Return trials to look at before any begins: all, or the corners of what is searched."""
        if self.trials:
            return [(f"trial {place}", trial) for place, trial in enumerate(self.trials)]
        ends = {
            name: one.get("choices") or [one["low"], one["high"]]
            for name, one in self.space.items()
        }
        corners = [
            {name: values[n % len(values)] for name, values in ends.items()}
            for n in range(max(map(len, ends.values())))
        ]
        return [(f"sweep.space, {_title(corner)}", corner) for corner in corners]

    def config_of(self, trial: Mapping[str, Any], place: str = "a trial") -> Any:
        """Return the config with a trial's fields, as its command line gives it.

        Raises:
            UserError: a field that there is not, or that evaluations do not read, or a value of
                another type.
        """
        more = [override(name, value) for name, value in trial.items()]
        for one in more:
            if str(one.path[0]) in FIXED:
                raise UserError(
                    f"{place}: {one.name} is the same in all trials of a sweep: leave it out of "
                    f"them, and sweep what images are made by"
                )
            if not reading.reads(READS, one.name):
                raise UserError(
                    f"{place}: config.{one.name} would be swept, and evaluations do not read it: "
                    f"leave it out"
                )
        try:
            return extended(self.config, more)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error

    def planned(
        self, place: str, folder: Path, trial: Mapping[str, Any], count: int | None = None
    ) -> Output:
        """Return what becomes of a trial's images; see `Evaluation.planned`."""
        return self.how.planned(self.config_of(trial, place), folder, place, count)

    def study(self) -> Study:
        """Return the sweep's study, made or found.

        Raises:
            UserError: it is another sweep's, or its storage cannot be reached.
        """
        chosen, pruning = self.config.sweep, self.config.sweep.pruning
        record = self.workdir / RECORD
        if record.exists():
            there = read_json(record, "move it away, or choose another --workdir")
            made_of = there.get("sweep", {}).get("made_of", {})
            if different := [one[0] for one in differences(made_of, self.made_of())]:
                raise UserError(
                    f"{record} is of another sweep, which differs in {', '.join(different[:3])}: "
                    f"give again what that one was made of, or choose another --workdir"
                )
        return Study(
            Storage(chosen.storage, self.workdir),
            chosen.study or self.config.name,
            self.workdir,
            self.places,
            self.made_of(),
            maximise=chosen.direction == "maximize",
            sampler="" if self.trials else chosen.sampler,
            seed=chosen.seed,
            pruning=Pruning(pruning.startup) if self._small else None,
            lease=chosen.lease,
        )

    def made_of(self) -> dict[str, Any]:
        """Return as JSON data what tells this sweep from another."""
        chosen = self.config.sweep
        search = {
            "space": self.space,
            "sampler": chosen.sampler,
            "seed": chosen.seed,
            "metric": chosen.metric,
            "direction": chosen.direction,
            "pruning": chosen.pruning.to_dict(),
        }
        first = self._examples()[0][0]
        overrides = [[override(*one).text for one in trial.items()] for trial in self.trials]
        names = [list(trial) for trial in self.trials]
        return plain(
            {
                "images": self.how.count,
                "metrics": [{"name": one.name} | dict(one.settings) for one in self.how.metrics],
                "statistics": self.how.real.digest,
                "extractor": dict(self.how.extractor.identity) | {"weights": ""},
                "first trial": self._outputs[first].made_of,
                "trials": digest_of([names, overrides]) if self.trials else "",
                "search": search if self.space else {},
            }
        )

    def announced(self) -> list[str]:
        """Return the lines of a dry run."""
        lines, outputs = [], list(self._outputs.items())
        cost: dict[str, int] = {}
        macs = 0.0
        if self.trials:
            for (name, output), trial in zip(outputs, self.trials, strict=True):
                plan = output.job.plan()
                for network, times in plan.totals.items():
                    cost[network] = cost.get(network, 0) + times * self.how.count
                macs += plan.macs * self.how.count
                lines.append(f"{name}: {shlex.join(_words(trial))}")
        else:
            plans = [output.job.plan() for _, output in outputs]
            dearest = max(plans, key=lambda plan: plan.macs)
            cost = {key: n * self.how.count * self.places for key, n in dearest.totals.items()}
            macs = float(dearest.macs * self.how.count * self.places)
            lines += [f"{name}: {_shown(one)}" for name, one in self.space.items()]
        images = self.places * self.how.count
        least = "" if self.trials else "at most "
        evaluations = ", ".join(f"{network} {n}" for network, n in sorted(cost.items()))
        lines.append(
            f"{self.places} trials of {self.how.count} images, {least}{images} images: {least}"
            f"{evaluations} network evaluations, {macs:.4g} multiply-adds"
        )
        workers = self.config.sweep.workers
        for number in range(workers):
            lines.append(f"worker {number}: {shlex.join(self._worker(hide=True))}")
        return lines

    def _worker(self, hide: bool = False) -> list[str]:
        """Return the words of the command of one worker.

        Args:
            hide: whether to leave out what may hold a password.
        """
        left_out = ("sweep.workers", "sweep.dry_run")
        said = [one for one in given(self.config).overrides if one.name not in left_out]
        return [
            *(sys.executable, str(MAIN), f"--config={given(self.config).file}"),
            *(f"--workdir={self.workdir}", "--mode=sweep"),
            *(
                f"--config.{one.name}={'...' if hide and one.name == 'sweep.storage' else one.text}"
                for one in said
            ),
        ]

    def launch(self, study: Study) -> None:
        """Start workers on this machine, and wait for them.

        Raises:
            UserError: all of them are gone, and trials are left.
        """
        number = self.config.sweep.workers
        with _bar(study) as bar:
            statuses = run_workers(
                self._worker(),
                number,
                self.workdir / "workers",
                lambda: _moved(bar, study),
                lambda text: bar.write(text, file=sys.stderr),
            )
        left = study.places - len(study.finished())
        if left:
            failed = next((one for one in statuses if one.said), None)
            why = f" ({failed.said})" if failed else ""
            raise UserError(
                f"{left} of {study.places} trials are left, and no worker is{why}: the same "
                f"command goes on with them"
            )

    def command(self, trial: Mapping[str, Any], place: int) -> str:
        """Return a command that repeats a trial."""
        return command(
            self.config,
            "evaluate",
            f"out/{self.config.name or 'sweep'}_{place}",
            *(override(name, value) for name, value in trial.items()),
            leave_out="sweep",
        )

    def write(self, study: Study) -> None:
        """Write what came out so far, until nothing was added meanwhile."""
        finished = study.finished()
        while True:
            record = self.record(finished)
            write_json(self.workdir / RECORD, record)
            write_text(self.workdir / TABLE, table(record))
            more = study.finished()
            if more.keys() == finished.keys():
                return
            finished = more

    def record(self, finished: Mapping[int, Finished]) -> dict[str, Any]:
        """Return the record of a sweep: that of an evaluation, with a row for each trial."""
        measured = [one.row["numbers"] for one in finished.values() if one.row.get("numbers")]
        names = list(measured[0]) if measured else []
        nothing = dict.fromkeys(names)
        rows = {}
        for place, one in finished.items():
            row = one.row | {"numbers": nothing | (one.row.get("numbers") or {})}
            rows[f"trial_{place}"] = flat(row)
        states = [one.state for one in finished.values()]
        best = _best(finished, self.config.sweep.direction)
        return self.how.record(self.config, rows, names) | {
            "claims": [],
            "sweep": {
                "trials": self.places,
                "sampler": self.config.sweep.sampler,
                "metric": self.config.sweep.metric,
                "direction": self.config.sweep.direction,
                "fields": sorted({name for row in rows.values() for name in row["parameters"]}),
                "states": {state: states.count(state) for state in (COMPLETE, PRUNED, FAILED)},
                "images_made": sum(row["images"] for row in rows.values() if "same_as" not in row),
                "made_of": self.made_of(),
                "best": None if best is None else f"trial_{best}",
            },
        }

    def measured(
        self,
        place: int,
        trial: Mapping[str, Any],
        claim: Claim | None,
        advance: Callable[[int], Any],
    ) -> tuple[str, dict[str, Any], float | None]:
        """Make a trial's images and measure them; call it in all processes of a worker.

        Args:
            place: of the trial.
            trial: its fields.
            claim: of its place; None in processes other than the first.
            advance: is told how many images were made, batch by batch.

        Returns:
            What became of it, its row, and what it is judged at.

        Raises:
            UserError: what is no fault of the trial.
        """
        name, folder = f"trial {place}", trial_folder(self.workdir, place)
        one, title = self.config_of(trial, name), _title(trial)
        guidance = one.guidance.to_dict()
        for size in filter(None, (self._small, self.how.count)):
            output = self.how.planned(one, folder, name, size)
            output.claim()
            beside = {
                "parameters": _parameters(trial),
                "command": self.command(trial, place),
                "folder": f"{folder.relative_to(self.workdir)}" if self.keeps else None,
                "trial": place,
                "images": size,
            }
            state, value, wrong = "", None, None
            try:
                row = self.how.measured(output, title, guidance, name, quiet=True, advance=advance)
                if claim is not None:
                    state, value = self._judged(claim, row["numbers"], size)
            except NoResult as error:
                state = FAILED
                row = described_row(title, guidance, output, None) | {"error": str(error)}
            except UserError as error:
                wrong = error
            distributed.agree(wrong, "could not measure a trial")
            state = distributed.text_from_primary(state)
            if state:
                if state == PRUNED:
                    row["small"] = row.pop("numbers", {})
                return state, row | beside | {"state": state}, value
        raise AssertionError("of the whole sample there is a state")

    def _judged(
        self, claim: Claim, found: Mapping[str, float | None], size: int
    ) -> tuple[str, float | None]:
        """Return the state of a trial by what was measured, empty while it goes on; its value."""
        value = self._value(found)
        if size == self.how.count:
            return COMPLETE, value
        assert value is not None, "a search refuses what was not measured"
        return (PRUNED, None) if claim.hopeless(value, size) else ("", None)

    def known(self, study: Study, claim: Claim, trial: Mapping[str, Any]) -> bool:
        """Say whether a proposal was measured before; its trial then ends with what was found."""
        for other, one in study.finished().items():
            if one.params == trial and one.state != FAILED:
                row = one.row | {"trial": claim.place, "same_as": other}
                claim.finish(one.state, row, one.value)
                self.write(study)
                return True
        return False

    def _value(self, found: Mapping[str, float | None]) -> float | None:
        """Return what a trial is judged at.

        Raises:
            UserError: a search by a metric that was not measured.
        """
        value = found.get(self.config.sweep.metric)
        if value is None and self.space:
            raise UserError(
                f"sweep.metric {self.config.sweep.metric!r} was not measured: choose one of "
                f"{', '.join(name for name, one in found.items() if one is not None)}"
            )
        return value


def _work(sweep: Sweep, study: Study | None) -> None:
    """Work on trials until none is left, or until asked to stop."""
    with _asked_to_stop() as stop, _bar(study) as bar:
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
    _moved(bar, study)
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


def _bar(study: Study | None) -> tqdm:
    """Return a bar over trials; of a launcher's worker, or beside another process, none."""
    hidden = study is None or NUMBER in os.environ
    done = 0 if study is None else len(study.finished())
    total = 0 if study is None else study.places
    return tqdm(total=total, initial=done, unit="trial", dynamic_ncols=True, disable=hidden)


def _moved(bar: tqdm, study: Study) -> None:
    bar.update(len(study.finished()) - bar.n if not bar.disable else 0)
    bar.refresh()


def _told(study: Study, workdir: Path) -> None:
    """Say what came out."""
    finished = study.finished()
    states = [one.state for one in finished.values()]
    counts = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
    print(f"{len(finished)} of {study.places} trials ({counts or 'none'}): {workdir / RECORD}")
    for place, one in finished.items():
        if one.state == FAILED:
            print(f"trial {place} failed: {one.row['error']}")


def table(record: Mapping[str, Any]) -> str:
    """Return a sweep's record as comma-separated values, a line a trial."""
    fields = record["sweep"]["fields"]
    others = ("multiply_adds", "seconds", "images", "folder", "command")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *fields, *record["metrics"], *others])
    for row in record["rows"].values():
        parameters = [row["parameters"].get(name) for name in fields]
        measured = [row[name] for name in record["metrics"]]
        writer.writerow([row["trial"], row["state"], *parameters, *measured, *map(row.get, others)])
    return text.getvalue()


def _words(trial: Mapping[str, Any]) -> list[str]:
    found = [override(name, value) for name, value in trial.items()]
    return [f"--config.{one.name}={one.text}" for one in found]


def _parameters(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's fields and values, sections field by field."""
    found: dict[str, Any] = {}
    for name, value in trial.items():
        if isinstance(value, Mapping):
            found |= _parameters({f"{name}.{key}": one for key, one in value.items()})
        else:
            # What JSON has no word for, such as infinity, is told in Python's.
            number = isinstance(value, float) and not math.isfinite(value)
            found[name] = str(value) if number else plain(value)
    return found


def _title(trial: Mapping[str, Any]) -> str:
    """Return a trial's title: its fields by the shortest names that tell them apart."""
    parameters = _parameters(trial)
    words = []
    for name, value in parameters.items():
        parts = name.split(".")
        endings = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        short = next(
            one
            for one in endings
            if sum(f".{other}".endswith(f".{one}") for other in parameters) == 1
        )
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        # The name of a part says what it is.
        words.append(shown if short == "name" else f"{short} {shown}")
    return ", ".join(words)


def _shown(section: Mapping[str, Any]) -> str:
    if "choices" in section:
        return f"one of {', '.join(map(str, section['choices']))}"
    kind = "whole numbers " * bool(section.get("int")) + "on a log scale " * bool(
        section.get("log")
    )
    return f"{kind}from {section['low']} to {section['high']}"


def _best(finished: Mapping[int, Finished], direction: str) -> int | None:
    values = {place: one.value for place, one in finished.items() if one.value is not None}
    choose = min if direction == "minimize" else max
    return choose(values, key=values.__getitem__) if values else None
