"""The evaluate verb: sample every row of a config in full and measure it against the real set."""

import datetime
import json
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ..evaluation.claims import judge
from ..evaluation.extractors.classifier import FeatureExtractor, RealStatistics, compare
from ..evaluation.metrics.appearance import contrast, white
from ..evaluation.table import render
from ..guidance import to_config
from ..inference.job import job_from_config
from ..models.checkpoints import SHIPPED
from ..runtime.store import ImageStore
from .export import commit
from .sample import run as sample

# What this mode reads of a config.
READS = (
    "seed",
    "rows",
    "claims",
    "evaluation",
    "sampler",
    "sampling",
)


def row_config(config, name: str) -> ConfigDict:
    """Return the config with the guidance of one of its rows, and what else the row sets."""
    one = ConfigDict(config.to_dict())
    row = config.rows[name].to_dict()
    one.guidance = ConfigDict(row["guidance"])
    one.sampling.update(row.get("sampling", {}))
    one.name = f"{config.name}/{name}"
    return one


def measure(extractor: FeatureExtractor, real: RealStatistics, images, labels) -> dict:
    """Return Frechet distance, precision, recall, class agreement and appearance of images.

    ``labels`` None (an unconditional run) leaves the agreement None.
    """
    features, predicted = extractor(images)
    return {
        **compare(real, features),
        "agreement": None if labels is None else float(np.mean(predicted == labels)),
        "contrast": contrast(images),
        "white": white(images),
    }


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
    section = config.evaluation
    extractor = FeatureExtractor(section.classifier)
    real = RealStatistics.load(SHIPPED / f"{section.statistics}.safetensors")
    jobs = {name: job_from_config(row_config(config, name)) for name in config.rows}
    rows, made_by = {}, commit()
    for name, job in jobs.items():
        one = row_config(config, name)
        one.sampling.count = section.count
        one.sampling.format = "npz"
        plan = job.plan()
        started = time.monotonic()
        sample(one, workdir / name)
        seconds = time.monotonic() - started
        store = ImageStore.open(workdir / name, section.count)
        indices = np.arange(section.count)
        rows[name] = {
            "title": config.rows[name].title,
            "guidance": config.rows[name].guidance.to_dict(),
            "rule": str(to_config(job.rule)),
            "command": f"{section.row_command.format(row=name)}",
            **measure(extractor, real, store.read(indices), job.labels(indices)),
            "evaluations": plan.totals,
            "multiply_adds": plan.macs,
            "seconds": seconds,
        }
        shown = ", ".join(f"{k} {v:.3f}" for k, v in rows[name].items() if isinstance(v, float))
        print(f"{config.rows[name].title}: {shown}", flush=True)
    result = {
        "command": section.command,
        "date": datetime.date.today().isoformat(),
        "commit": made_by,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "images": section.count,
        "sampler": config.sampler.to_dict(),
        "weights": config.sampling.weights.to_dict(),
        "real": real.description,
        "rows": rows,
        "claims": [judge(claim, rows) for claim in config.get("claims", ())],
    }
    (workdir / "evidence.json").write_text(json.dumps(result, indent=1) + "\n")
    (workdir / "evidence.md").write_text(render(result) + "\n")
    print(f"wrote {workdir / 'evidence.json'} and evidence.md")
