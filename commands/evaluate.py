"""The evaluate mode: every row of a config sampled in full and measured against a real set."""

import datetime
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from ..core.errors import UserError
from ..core.files import read_json, safe_name, write_json, write_text
from ..evaluation.claims import judge
from ..evaluation.extractors import (
    Extractor,
    features_of,
    in_batches,
    make_extractor,
    require_images,
)
from ..evaluation.metrics.named import Measured, Metric, choose, measure, require_possible
from ..evaluation.statistics import RealStatistics, find_statistics
from ..evaluation.table import claims_table, measured_table
from ..guidance import to_config
from ..guidance.evaluations import counts_text
from ..inference.job import Job
from ..inference.shared import SharedNetworks, grouped
from ..models.checkpoints import SHIPPED
from ..runtime import distributed
from ..runtime.identity import differences, plain
from ..runtime.memory import require_memory
from .config.sections import section
from .export import commit
from .sample import Output, job_from_config, require_counts

EXAMPLE = "configs/evidence.py"
METRICS = ("frechet_distance", "manifold_scores", "agreement", "contrast", "white")
RECORD, PAGE, SECONDS = "evidence.json", "evidence.md", "seconds.json"
# What this mode reads of a config.
READS = (
    "seed",
    "rows",
    "claims",
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
    chosen = section(
        config, "evaluation", fields=("classifier", "statistics", "count"), example=EXAMPLE
    )
    names = list(section(config, "rows", fields=(), example=EXAMPLE))
    if not names:
        raise UserError(f"rows is empty: give at least one, as {EXAMPLE} does")
    require_counts("evaluation", count=chosen.count)
    require_counts("sampling", batch_size=config.sampling.batch_size)
    metrics = choose(plain(tuple(chosen.get("metrics", METRICS))))
    given = chosen.get("extractor")
    extractor = make_extractor(chosen.classifier, given.to_dict() if given else None)
    real = found_statistics(chosen.statistics, workdir)
    networks, decoders = SharedNetworks(), {}
    outputs = {name: _planned(config, name, workdir, networks, decoders) for name in names}
    for name, output in outputs.items():
        require_images(extractor, output.shape, f"rows.{name}")
    for note in _require_measurable(metrics, extractor, real, outputs, chosen.count):
        distributed.say(f"note: {note}")
    _require_same(workdir / RECORD, {name: output.made_of for name, output in outputs.items()})
    for output in outputs.values():
        output.claim()
    rows = {}
    for name in grouped({name: output.job for name, output in outputs.items()}):
        output = outputs[name]
        clock = Clock(workdir / name / SECONDS)
        store = output.fill(f"{config.name}/{name}", networks.ready(output.job), clock)
        if distributed.is_primary():
            indices = np.arange(chosen.count)
            images, labels = store.read(indices), output.job.labels(indices)
            rows[name] = _row(config.rows[name], output, clock.seconds(chosen.count)) | {
                "numbers": numbers(metrics, extractor, real, images, labels)
            }
            print(_said(rows[name]), flush=True)
    if not distributed.is_primary():
        return {}
    found = {name: rows[name].pop("numbers") for name in names}
    rows = {name: rows[name] | found[name] for name in names}
    return {
        "name": config.name,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "images": chosen.count,
        "sampler": config.sampler.to_dict(),
        "weights": config.sampling.weights.to_dict(),
        "real": {**real.description, "digest": real.digest},
        "extractor": dict(extractor.identity),
        "metrics": list(found[names[0]]),
        "rows": rows,
        "claims": [judge(claim, rows) for claim in config.get("claims", ())],
    }


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
    try:
        return job_from_config(one, networks.outlines(one.sampling.weights.to_dict()))
    except UserError as error:
        raise UserError(f"rows.{name}: {error}") from error


def found_statistics(name: str, workdir: Path) -> RealStatistics:
    """Read statistics by path or name: those of the workdir, or those shipped with the package.

    Raises:
        UserError: there are none, with the places that were looked at.
    """
    return RealStatistics.load(find_statistics(name, (workdir, SHIPPED)))


def numbers(
    metrics: Sequence[Metric],
    extractor: Extractor,
    real: RealStatistics,
    images: UInt8[np.ndarray, "image h w c"],
    labels: Int[np.ndarray, " image"] | None,
) -> dict[str, float | None]:
    """Return what metrics say of images.

    Raises:
        UserError: a metric that refuses them.
    """
    found = in_batches(extractor, images)
    try:
        return measure(metrics, Measured(real.moments, real.features, *found, images, labels))
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
    named = extractor.get("weights", extractor["name"])
    lines = [
        f"# {found['name']}",
        "",
        f"{found['images']} images a row, the same noise in every row, against {real['data']} "
        f"{real['split']} in the features of `{named}` ({found['date']}, {found['device']}).",
        "",
        *measured_table(rows, found["metrics"], costs(rows)),
        "",
    ]
    if found["claims"]:
        lines += ["## Claims", "", *claims_table(found["claims"]), ""]
    return "\n".join(lines).rstrip()


def costs(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what an image of each row costs: network evaluations, and their multiply-adds."""
    return {
        name: f"{counts_text(row['evaluations'])} ({row['multiply_adds'] / 1e9:.3g} G)"
        for name, row in rows.items()
    }


def _planned(config, name: str, workdir: Path, networks: SharedNetworks, decoders: dict) -> Output:
    safe_name(name, "the name of a row")
    job = planned_job(config, name, networks)
    one = row_config(config, name).sampling
    one.update(count=config.evaluation.count, format="npz")
    try:
        output = Output(job, one, workdir / name, decoders)
    except UserError as error:
        raise UserError(f"rows.{name}: {error}") from error
    if output.raw:
        raise UserError(
            f"rows.{name}: its samples are latents, and what is measured are pictures: set "
            f"sampling.decoder to the weights of their autoencoder"
        )
    return output


def _require_measurable(
    metrics: Sequence[Metric],
    extractor: Extractor,
    real: RealStatistics,
    outputs: Mapping[str, Output],
    count: int,
) -> list[str]:
    """Refuse metrics that cannot be; return what is to be said of those that can."""
    shapes = {output.shape for output in outputs.values()}
    for shape in shapes:
        width = features_of(extractor, shape)
        real.require_fit(extractor, width, "evaluation.statistics")
    absent = {}
    if real.features is None:
        absent["real_features"] = "these statistics keep none, those of --mode=statistics do"
    if not extractor.num_classes:
        absent["probabilities"] = "name the weights of a classifier in evaluation.classifier"
    kept = None if real.features is None else len(real.features)
    # Images twice, while they are put together; features in float32 and in float64.
    pixels = max(math.prod(shape) for shape in shapes)
    require_memory(
        count * (2 * pixels + 20 * real.width),
        f"evaluation.count is {count}: a row's images and features",
        "lower it",
    )
    return require_possible(metrics, count, real.width, real=kept, absent=absent)


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


def _row(section, output: Output, seconds: float | None) -> dict[str, Any]:
    plan = output.job.plan()
    return {
        "title": section.title,
        "guidance": section.guidance.to_dict(),
        "rule": str(to_config(output.job.rule)),
        "made_of": plain(output.made_of),
        "evaluations": plan.totals,
        "multiply_adds": plan.macs,
        # None where images were made without the time being kept.
        "seconds": seconds,
    }


def _said(row: Mapping[str, Any]) -> str:
    found = ", ".join(
        f"{name} {value:.4g}" for name, value in row["numbers"].items() if value is not None
    )
    spent = "" if row["seconds"] is None else f", {row['seconds']:.1f} s in all"
    return (
        f"{row['title']}: {found}; {counts_text(row['evaluations'])} evaluations an image "
        f"({row['multiply_adds'] / 1e9:.4g} G multiply-adds){spent}"
    )
