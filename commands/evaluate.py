"""The evaluate verb: sample every row of a config in full and measure it against the real set."""

import datetime
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from ..core.errors import UserError
from ..core.files import write_json, write_text
from ..evaluation.claims import judge
from ..evaluation.extractors import Extractor, in_batches, make_extractor, require_images
from ..evaluation.metrics.named import Measured, Metric, choose, measure, require_possible
from ..evaluation.statistics import RealStatistics, find_statistics
from ..evaluation.table import render
from ..guidance import to_config
from ..models.checkpoints import SHIPPED
from ..runtime.store import Store
from .config.sections import section
from .export import commit
from .sample import job_from_config
from .sample import run as sample

EXAMPLE = "configs/evidence.py"
FIELDS = ("classifier", "statistics", "count", "command", "row_command")
METRICS = ("frechet_distance", "manifold_scores", "agreement", "contrast", "white")
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


def row_config(config, name: str) -> ConfigDict:
    """Return the config with the guidance of one of its rows, and what else the row sets."""
    one = ConfigDict(config.to_dict())
    row = config.rows[name].to_dict()
    one.guidance = ConfigDict(row["guidance"])
    one.sampling.update(row.get("sampling", {}))
    one.name = f"{config.name}/{name}"
    return one


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
    chosen = section(config, "evaluation", fields=FIELDS, example=EXAMPLE)
    section(config, "rows", fields=(), example=EXAMPLE)
    given = chosen.get("extractor")
    metrics = choose(chosen.get("metrics", METRICS))
    extractor = make_extractor(chosen.classifier, given.to_dict() if given else None)
    real = found_statistics(chosen.statistics, workdir)
    jobs = {name: job_from_config(row_config(config, name)) for name in config.rows}
    for name, job in jobs.items():
        require_images(extractor, job.networks["main"].shape, f"rows.{name}")
    width = in_batches(extractor, np.zeros((1, *job.networks["main"].shape), np.uint8))
    real.require_fit(extractor, width.features.shape[-1], "evaluation.statistics")
    absent = {}
    if real.features is None:
        absent["real_features"] = "these statistics keep none, --mode=statistics makes some that do"
    if not extractor.num_classes:
        absent["probabilities"] = "name the weights of a classifier in evaluation.classifier"
    kept = None if real.features is None else len(real.features)
    for note in require_possible(metrics, chosen.count, real.width, real=kept, absent=absent):
        print(f"note: {note}")
    rows, made_by = {}, commit()
    for name, job in jobs.items():
        one = row_config(config, name)
        one.sampling.count = chosen.count
        one.sampling.format = "npz"
        plan = job.plan()
        started = time.monotonic()
        sample(one, workdir / name)
        seconds = time.monotonic() - started
        store = Store.open(workdir / name, chosen.count)
        indices = np.arange(chosen.count)
        rows[name] = {
            "title": config.rows[name].title,
            "guidance": config.rows[name].guidance.to_dict(),
            "rule": str(to_config(job.rule)),
            "command": f"{chosen.row_command.format(row=name)}",
            **numbers(metrics, extractor, real, store.read(indices), job.labels(indices)),
            "evaluations": plan.totals,
            "multiply_adds": plan.macs,
            "seconds": seconds,
        }
        shown = ", ".join(f"{k} {v:.3f}" for k, v in rows[name].items() if isinstance(v, float))
        print(f"{config.rows[name].title}: {shown}", flush=True)
    result = {
        "command": chosen.command,
        "date": datetime.date.today().isoformat(),
        "commit": made_by,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "images": chosen.count,
        "sampler": config.sampler.to_dict(),
        "weights": config.sampling.weights.to_dict(),
        "real": dict(real.description),
        "rows": rows,
        "claims": [judge(claim, rows) for claim in config.get("claims", ())],
    }
    write_json(workdir / "evidence.json", result)
    write_text(workdir / "evidence.md", render(result) + "\n")
    print(f"wrote {workdir / 'evidence.json'} and evidence.md")
