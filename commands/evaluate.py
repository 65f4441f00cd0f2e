"""The evaluate mode: every row of a config sampled in full and measured against a real set."""

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from ..core.errors import NoResult, UserError
from ..core.files import read_json, safe_name, write_json, write_text
from ..core.registry import written_in
from ..evaluation.claims import judge
from ..evaluation.extractors import (
    Extractor,
    features_of,
    make_extractor,
    require_images,
)
from ..evaluation.metrics.frechet import frechet_bias
from ..evaluation.metrics.named import Batch, Metric, choose, measure, require_possible
from ..evaluation.published import NOT_SAID
from ..evaluation.seeds import spread
from ..evaluation.statistics import RealStatistics, find_statistics, sorting, without_place
from ..evaluation.table import claims_table, gains_table, measured_table
from ..guidance import to_config
from ..guidance.evaluations import counts_text
from ..inference.job import Job
from ..inference.shared import SharedNetworks, grouped
from ..models.checkpoints import SHIPPED
from ..runtime import distributed
from ..runtime.identity import differences, plain
from ..runtime.memory import require_memory
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, Folder
from .config.overrides import command, given, override
from .config.sections import section
from .export import commit
from .sample import Output, job_from_config, require_counts

EXAMPLE = "configs/evidence.py"
METRICS = (
    "frechet_distance",
    "precision_recall",
    "density_coverage",
    "agreement",
    "contrast",
    "white",
)
# What `evaluation.resample` adds to them.
RESAMPLED = "resampled_frechet_distance"
# Images that are read and measured at a time.
AT_ONCE = 500
RECORD, PAGE, SECONDS = "evidence.json", "evidence.md", "seconds.json"
# The one row of a config that has none, measured by its own guidance.
ROW = "guided"
# What this mode reads of a config.
READS = (
    "seed",
    "rows",
    "claims",
    "guidance",
    "evaluation",
    "sampler",
    "sampling.weights",
    "sampling.batch_size",
    "sampling.classes",
    "sampling.branches",
    "sampling.decoder",
    "sampling.scaling",
    "sampling.any_decoder",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=EVALUATION, beside=(RUN, SAMPLES))


def run(config, workdir: Path) -> None:
    """Sample ``config.evaluation.count`` images a row, the same noise in every row, and measure.

    Args:
        config: has ``rows`` (title and guidance each, and fields of ``sampling`` to replace) and
            ``evaluation``.
        workdir: gets a folder of images a row (an interrupted run goes on), ``evidence.json``
            and ``evidence.md``.

    Raises:
        UserError: anything in any row that cannot run, before the first image.
    """
    result = evaluated(config, workdir)
    if result:
        write_json(workdir / RECORD, result)
        write_text(workdir / PAGE, render(result) + "\n")
        print(f"wrote {workdir / RECORD} and {PAGE}")


def evaluated(config, workdir: Path) -> dict[str, Any]:
    """Return what `run` writes to ``evidence.json``; nothing in processes other than the first."""
    how = Evaluation(config, workdir)
    asked, config = config, with_rows(config)
    names = list(config.rows)
    if not names:
        raise UserError(f"rows is empty: give at least one, as {EXAMPLE} does")
    outputs = {}
    for name in names:
        safe_name(name, "the name of a row")
        outputs[name] = how.planned(row_config(config, name), workdir / name, f"rows.{name}")
    for note in how.notes({f"rows.{name}": output for name, output in outputs.items()}):
        distributed.say(f"note: {note}")
    _require_same(workdir / RECORD, {name: output.made_of for name, output in outputs.items()})
    for part in _rewritten(workdir / RECORD, how.outside):
        distributed.say(
            f"note: the file that {part} is written in was changed since {RECORD} was written: all "
            f"rows are measured anew"
        )
    for output in outputs.values():
        output.claim()
    rows = {}
    for name in grouped({name: output.job for name, output in outputs.items()}):
        section = config.rows[name]
        row = how.measured(outputs[name], section.title, section.guidance.to_dict(), config.name)
        if distributed.is_primary():
            rows[name] = row | _made_by(asked, config.rows[name], name)
            print(said(row), flush=True)
    if not distributed.is_primary():
        return {}
    measured = list(rows[names[0]]["numbers"])
    rows = {name: flat(rows[name]) for name in names}
    return how.record(config, rows, measured) | {
        "claims": [judge(claim, rows) for claim in config.get("claims", ())]
    }


class Evaluation:
    """How images are measured: how many, against which real set, in which features.

    Args:
        config: of an experiment that has ``evaluation``.
        workdir: where statistics are looked for before those that are shipped.

    Attributes:
        count: images of a row that are measured together.
        repeats: how many times as many are made and measured apart, of other seeds.
        metrics: what is measured.
        extractor: its features.
        real: the real set's statistics.
        outside: what tells the code of those that are from outside, by their names.

    Raises:
        UserError: no such section, a field that it lacks, or anything in it that there is not.
    """

    def __init__(self, config, workdir: Path):
        chosen = section(
            config, "evaluation", fields=("classifier", "statistics", "count"), example=EXAMPLE
        )
        require_counts("evaluation", count=chosen.count)
        require_counts("sampling", batch_size=config.sampling.batch_size)
        self.count = chosen.count
        self.repeats, resample = chosen.get("repeats", 1), chosen.get("resample", 0)
        require_counts("evaluation", repeats=self.repeats)
        if resample:
            require_counts("evaluation", resample=resample)
        more = ({"name": RESAMPLED, "top": resample},) if resample else ()
        self.metrics = choose((*plain(tuple(chosen.get("metrics", METRICS))), *more))
        given = chosen.get("extractor")
        named = given.to_dict() if given else None
        self.extractor = make_extractor(chosen.classifier, named)
        parts = {"metrics": [{"name": one.name} for one in self.metrics], "extractor": named}
        self.outside = written_in({"evaluation": parts})
        self.real = found_statistics(
            chosen.statistics, workdir, chosen.get("statistics_key", ""), self.extractor
        )
        self._networks, self._decoders = SharedNetworks(), {}
        self._commit = commit()

    def planned(self, one, folder: Path, place: str, count: int | None = None) -> Output:
        """Return what becomes of a row's images; its networks are shapes alone.

        Args:
            one: a config with the row's own guidance.
            folder: gets the images.
            place: the row, for messages.
            count: how many images are measured together, where not all of them.

        Raises:
            UserError: it cannot run, in the name of ``place``.
        """
        sampling = one.sampling.copy_and_resolve_references()
        sampling.update(count=self.repeats * (count or self.count), format="npz")
        with _named(place):
            job = job_from_config(one, self._networks.outlines(one.sampling.weights.to_dict()))
            output = Output(job, sampling, folder, self._decoders)
        if output.raw:
            raise UserError(
                f"{place}: its samples are latents, and what is measured are pictures: set "
                f"sampling.decoder to the weights of their autoencoder"
            )
        require_images(self.extractor, output.shape, place)
        if job.classes is not None:
            self._require_same_classes(job.main.num_classes, place)
        return output

    def _require_same_classes(self, classes: int, place: str) -> None:
        """Refuse to compare labels of one data set with a classifier's of another."""
        known = self.extractor.num_classes
        for metric in self.metrics:
            compares = {"labels", "probabilities"} <= {*metric.wanted}
            if compares and known not in (0, classes):
                raise UserError(
                    f"{place}: {metric.name} compares labels of {classes} classes with those of a "
                    f"classifier of {known}: name one of the same classes in evaluation.classifier"
                )

    def notes(self, outputs: Mapping[str, Output], count: int | None = None) -> list[str]:
        """Refuse metrics that cannot be; return what is to be said of those that can."""
        shapes = {output.shape for output in outputs.values()}
        return _require_measurable(
            self.metrics, self.extractor, self.real, shapes, count or self.count
        )

    def measured(
        self,
        output: Output,
        title: str,
        guidance: Mapping[str, Any],
        name: str,
        *,
        quiet: bool = False,
        advance: Callable[[int], Any] | None = None,
    ) -> dict[str, Any]:
        """Make what is missing of a row's images, and measure them.

        Args:
            output: as `planned` returns it; how many images is its own.
            title: of the row.
            guidance: its rule, as the config names it.
            name: of the experiment, for what is said.
            quiet: whether to say nothing of images, nor draw a bar.
            advance: is told how many images were made, batch by batch.

        Returns:
            The row, with what was measured in ``numbers``; nothing in processes other than the
            first.

        Raises:
            NoResult: images that are not finite, or that a metric refuses.
            UserError: no space, or weights that were replaced meanwhile.
        """
        clock = Clock(output.workdir / SECONDS)

        def made(count: int) -> None:
            clock(count)
            if advance is not None:
                advance(count)

        job = self._networks.ready(output.job)
        store = output.fill(f"{name}/{output.workdir.name}", job, made, quiet=quiet)
        if not distributed.is_primary():
            return {}
        count = output.section.count
        try:
            found = [
                numbers(
                    self.metrics,
                    self.extractor,
                    self.real,
                    in_parts(store.read, output.job.labels, each, first),
                )
                for each in [count // self.repeats]
                for first in range(0, count, each)
            ]
        except UserError as error:
            if isinstance(error.__cause__, OSError):
                raise
            raise NoResult(str(error)) from error
        row = described_row(title, guidance, output, clock.seconds(count))
        if self.repeats == 1:
            return row | {"numbers": found[0]}
        spreads = {
            name: None if one is None else spread([each[name] for each in found])
            for name, one in found[0].items()
        }
        return row | {
            "numbers": {name: one and one.mean for name, one in spreads.items()},
            "spread": {name: one._asdict() for name, one in spreads.items() if one is not None},
        }

    def record(
        self, config, rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]
    ) -> dict[str, Any]:
        """Return the record of an evaluation.

        Args:
            config: of the experiment.
            rows: by name, as `flat` returns them.
            names: of what was measured.
        """
        return {
            "name": config.name,
            "date": datetime.date.today().isoformat(),
            "commit": self._commit,
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "images": self.count,
            "repeats": self.repeats,
            "sampler": config.sampler.to_dict(),
            "weights": config.sampling.weights.to_dict(),
            "real": {**self.real.description, "digest": self.real.digest},
            "extractor": dict(self.extractor.identity),
            "metrics": list(names),
            **({"outside": self.outside} if self.outside else {}),
            "rows": dict(rows),
        }


def _rewritten(record: Path, outside: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the parts from outside that have other code than those an evaluation went by."""
    there = read_json(record, "move it away").get("outside", {}) if record.exists() else {}
    return [part for part, code in outside.items() if there.get(part, code) != code]


def with_rows(config) -> Any:
    """Return a config that has rows: its own, or else the one that its ``guidance`` makes.

    Raises:
        UserError: both are given, the guidance on the command line, where it would say nothing.
    """
    if "rows" not in config:
        one = ConfigDict(config.to_dict())
        guidance = config.guidance.to_dict()
        one.rows = ConfigDict({ROW: dict(title=str(guidance.get("name")), guidance=guidance)})
        return one
    for name in (one.name for one in given(config).overrides):
        if name.partition(".")[0] == "guidance":
            raise UserError(
                f"config.{name} was set, and the rows of this config have their own guidance: set "
                f"rows.{next(iter(config.rows), 'NAME')}.{name}, or leave it out"
            )
    return config


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with what was measured beside what it was measured of."""
    return {key: value for key, value in row.items() if key != "numbers"} | row["numbers"]


def row_config(config, name: str) -> ConfigDict:
    """Return the config with the guidance of one of its rows, and what else the row sets."""
    one = ConfigDict(config.to_dict())
    row = config.rows[name].to_dict()
    one.guidance = ConfigDict(row["guidance"])
    one.sampling.update(row.get("sampling", {}))
    one.name = f"{config.name}/{name}"
    return one


def planned_job(config, name: str, networks: SharedNetworks) -> Job:
    """Return the job of a row, its networks as shapes alone.

    Raises:
        UserError: it cannot run, in the row's name.
    """
    one = row_config(config, name)
    with _named(f"rows.{name}"):
        return job_from_config(one, networks.outlines(one.sampling.weights.to_dict()))


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Put the name of a row before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def found_statistics(
    name: str, workdir: Path, key: str = "", extractor: Extractor | None = None
) -> RealStatistics:
    """Read statistics by path or name: those of the workdir, or those shipped with the package.

    Args:
        name: of the file, or its path.
        workdir: where it is looked for first.
        key, extractor: as `RealStatistics.load` takes them.

    Raises:
        UserError: there are none, with the places that were looked at.
    """
    path = find_statistics(name, (workdir, SHIPPED))
    return RealStatistics.load(path, key=key, extractor=extractor)


def in_parts(
    read: Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n h w c"]],
    labels: Callable[[Int[np.ndarray, " n"]], Int[np.ndarray, " n"] | None],
    count: int,
    first: int = 0,
) -> Iterator[tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"] | None]]:
    """Yield the images from ``first`` on and their labels, some at a time."""
    for start in range(first, first + count, AT_ONCE):
        indices = np.arange(start, min(start + AT_ONCE, first + count))
        yield read(indices), labels(indices)


def numbers(
    metrics: Sequence[Metric],
    extractor: Extractor,
    real: RealStatistics,
    parts: Iterable[tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"] | None]],
) -> dict[str, float | None]:
    """Return what metrics say of images that come with their labels, some at a time.

    Raises:
        UserError: a metric that refuses them.
    """
    batches = (Batch(*extractor(images), images, labels) for images, labels in parts)
    try:
        return measure(metrics, batches, real.measured)
    except ValueError as error:
        raise UserError(str(error)) from error


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


def render(found: Mapping[str, Any]) -> str:
    """Return the page of what `evaluated` returned."""
    real, rows, extractor = found["real"], found["rows"], found["extractor"]
    times = f"{found['repeats']} times " if found.get("repeats", 1) > 1 else ""
    split = "" if real["split"] == NOT_SAID else f" {real['split']}"
    whose = " (the statistics do not say whose)" * (real.get("extractor") == NOT_SAID)
    lines = [
        f"# {found['name']}",
        "",
        f"{times}{found['images']} images a row, the same noise in every row, against "
        f"{real['data']}{split} in the features of `{_extractor_name(extractor)}`{whose} "
        f"({found['date']}, {found['device']}).",
        "",
        *measured_table(rows, found["metrics"], costs(rows)),
        "",
    ]
    if {RESAMPLED, "frechet_distance"} <= set(found["metrics"]):
        lines += ["## What gains are made of", "", *gains_table(rows), ""]
    if found["claims"]:
        lines += ["## Claims", "", *claims_table(found["claims"]), ""]
    return "\n".join(lines).rstrip()


def costs(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what an image of each row costs: network evaluations, and their multiply-adds."""
    return {
        name: f"{counts_text(row['evaluations'])} ({row['multiply_adds'] / 1e9:.3g} G)"
        for name, row in rows.items()
    }


def _require_measurable(
    metrics: Sequence[Metric],
    extractor: Extractor,
    real: RealStatistics,
    shapes: set[tuple[int, ...]],
    count: int,
) -> list[str]:
    """Refuse metrics that cannot be; return what is to be said of those that can."""
    for shape in shapes:
        width = features_of(extractor, shape)
        real.require_fit(extractor, width, "evaluation.statistics", shape)
    absent = {}
    if real.features is None:
        absent["real_features"] = "these statistics keep none, those of --mode=statistics do"
    if not extractor.num_classes:
        absent["probabilities"] = "name the weights of a classifier in evaluation.classifier"
    if real.ranks is None:
        absent["real_ranks"] = (
            "these statistics do not say which classes the real images have, those that "
            "--mode=statistics writes with a classifier do"
        )
    elif real.description["classes"] != without_place(sorting(extractor)):
        absent["real_ranks"] = (
            "another classifier sorted the real images than evaluation.classifier: name that one, "
            "or make statistics with this one"
        )
    for metric in metrics:
        top = metric.settings.get("top", 1)
        if metric.name == RESAMPLED and real.ranks is not None and not 1 <= top <= len(real.ranks):
            raise UserError(
                f"evaluation.resample is {top}, and evaluation.statistics count the "
                f"{len(real.ranks)} most probable classes: give as many at most"
            )
    kept = None if real.features is None else len(real.features)
    wanted = {name for metric in metrics if not metric.mean for name in metric.wanted}
    # Numbers of an image: as they are kept, and once more where they are put together; features in
    # float32 and in what metrics make of them.
    each = {
        "images": 2 * max(math.prod(shape) for shape in shapes),
        "features": 20 * real.width,
        "probabilities": 16 * (extractor.num_classes or 0),
    }
    batch = AT_ONCE * (2 * each["images"] + each["features"] + each["probabilities"])
    require_memory(
        count * sum(size for name, size in each.items() if name in wanted) + batch,
        f"evaluation.count is {count}: what metrics want of a row's images",
        "lower it",
    )
    notes = require_possible(metrics, count, real.width, real=kept, absent=absent)
    if count <= real.width and "moments" in wanted:
        notes.append(
            f"{count} images of the real set's own distribution would be at a Frechet distance of "
            f"some {frechet_bias(real.moments, max(count, 2)):.3g}"
        )
    if real.description.get("extractor") == NOT_SAID:
        notes.append(
            f"evaluation.statistics do not say whose features they are in: they are taken to be "
            f"those of {_extractor_name(extractor.identity)}"
        )
    return notes


def _extractor_name(identity: Mapping[str, Any]) -> str:
    return str(identity.get("weights", identity["name"]))


def _require_same(record: Path, made_of: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to replace what another evaluation wrote."""
    if not record.exists():
        return
    remedy = "choose another --workdir"
    stored = read_json(record, f"move it away, or {remedy}")
    there = stored.get("rows") if isinstance(stored, dict) else None
    if not isinstance(there, dict):
        raise UserError(f"{record} was written by something else than an evaluation: {remedy}")
    if more := [name for name in there if name not in made_of]:
        raise UserError(
            f"{record} holds the row {more[0]!r} ({len(there)} rows), which this evaluation has "
            f"not: evaluate that one, too, or {remedy}"
        )
    for name, row in there.items():
        before = row.get("made_of")
        if before is not None and any(differences(before, plain(made_of[name]))):
            raise UserError(
                f"{record}: the images of row {name!r} were made of other weights, or by other "
                f"settings: {remedy}"
            )


def _made_by(asked, section, name: str) -> dict[str, Any]:
    """Return what else a row sets, and a command that evaluates it alone."""
    row = section.to_dict()
    alone = [override("rows", {name: row})] if "rows" in asked else []
    return {
        "sampling": row.get("sampling", {}),
        "command": command(asked, "evaluate", f"out/{name}", *alone),
    }


def described_row(
    title: str, guidance: Mapping[str, Any], output: Output, seconds: float | None
) -> dict[str, Any]:
    """Return what is known of a row without its images: rule, cost, and what it is made of."""
    plan = output.job.plan()
    return {
        "title": title,
        "guidance": dict(guidance),
        "rule": str(to_config(output.job.rule)),
        "made_of": plain(output.made_of),
        "evaluations": plan.totals,
        "multiply_adds": plan.macs,
        # None where images were made without the time being kept.
        "seconds": seconds,
    }


def said(row: Mapping[str, Any]) -> str:
    """Return what is said of a row that was measured."""
    found = ", ".join(
        f"{name} {value:.4g}" for name, value in row["numbers"].items() if value is not None
    )
    spent = "" if row["seconds"] is None else f", {row['seconds']:.1f} s in all"
    return (
        f"{row['title']}: {found}; {counts_text(row['evaluations'])} evaluations an image "
        f"({row['multiply_adds'] / 1e9:.4g} G multiply-adds){spent}"
    )
