"""The trials of a sweep: which there are, what each is made of, and what came out."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...core.checks import count, positive, require_ranges
from ...core.errors import NoResult, UserError
from ...core.files import digest_of, read_json, write_json, write_text
from ...runtime import distributed
from ...runtime.identity import differences, plain
from ...runtime.study import (
    COMPLETE,
    FAILED,
    PRUNED,
    SAMPLERS,
    Claim,
    Finished,
    Pruning,
    Storage,
    Study,
    require_space,
    trial_folder,
)
from ...runtime.workers import NUMBER
from ..config import hyper, reading
from ..config.overrides import command, extended, given, override
from ..evaluate import READS as EVALUATED
from ..measuring.evaluation import Evaluation
from ..measuring.rows import described_row, flat
from ..sample import Output
from .record import RECORD, TABLE, best_of, parameters_of, table, title_of

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
        how: they are measured.
        outputs: what becomes of the images of those that were looked at, by what each is called.

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
        self.outputs: dict[str, Output] = {}
        # A launcher has looked at all of them before it starts its workers.
        looked_at = self._examples() if NUMBER not in os.environ else self._examples()[:1]
        for name, trial in looked_at:
            self.outputs[name] = self.planned(name, workdir, trial)
        notes = self.how.notes(self.outputs)
        if self._small:
            notes += self.how.notes(self.outputs, self._small)
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
        return [(f"sweep.space, {title_of(corner)}", corner) for corner in corners]

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
                **self.how.identity,
                "first trial": self.outputs[first].made_of,
                "trials": digest_of([names, overrides]) if self.trials else "",
                "search": search if self.space else {},
            }
        )

    def command(self, trial: Mapping[str, Any], place: int) -> str:
        """Return a command that repeats a trial."""
        return command(
            self.config,
            "evaluate",
            f"out/{self.config.name or 'sweep'}_{place}",
            *self.how.overrides,
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
        best = best_of(finished, self.config.sweep.direction)
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
        one, title = self.config_of(trial, name), title_of(trial)
        guidance = one.guidance.to_dict()
        for size in filter(None, (self._small, self.how.count)):
            output = self.how.planned(one, folder, name, size)
            output.claim()
            beside = {
                "parameters": parameters_of(trial),
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
