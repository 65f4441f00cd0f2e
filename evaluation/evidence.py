"""The evaluate verb: sample every row of a config in full and measure it against the real set."""

import datetime
import json
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ..models.weights import SHIPPED
from ..sampling.images import ImageStore
from ..sampling.job import job_from_config
from ..sampling.run import sample
from ..training.export import commit
from .appearance import contrast
from .classifier_features import FeatureExtractor, RealStatistics, compare


def row_config(config, name: str) -> ConfigDict:
    """Return the config with the guidance of one of its rows."""
    one = ConfigDict(config.to_dict())
    one.guidance = ConfigDict(config.rows[name].guidance.to_dict())
    one.name = f"{config.name}/{name}"
    return one


def measure(extractor: FeatureExtractor, real: RealStatistics, images, labels) -> dict:
    """Return Frechet distance, precision, recall, class agreement and contrast of images."""
    features, predicted = extractor(images)
    return {
        **compare(real, features),
        "agreement": float(np.mean(predicted == labels)),
        "contrast": contrast(images),
    }


def evaluate(config, workdir: Path) -> None:
    """Sample ``config.evaluation.count`` images a row, the same noise in every row, and measure.

    Args:
        config: has ``rows`` (title and guidance each) and ``evaluation``.
        workdir: gets a folder of images a row (an interrupted run goes on) and
            ``evidence.json``.

    Raises:
        UserError: anything in any row that cannot run, before the first image.
    """
    section = config.evaluation
    extractor = FeatureExtractor(section.classifier)
    real = RealStatistics.load(SHIPPED / f"{section.statistics}.safetensors")
    jobs = {name: job_from_config(row_config(config, name)) for name in config.rows}
    rows = {}
    for name, job in jobs.items():
        one = row_config(config, name)
        one.sampling.count = section.count
        one.sampling.format = "npz"
        started = time.monotonic()
        sample(one, workdir / name)
        seconds = time.monotonic() - started
        store = ImageStore.open(workdir / name, section.count)
        indices = np.arange(section.count)
        rows[name] = {
            "title": config.rows[name].title,
            "guidance": config.rows[name].guidance.to_dict(),
            **measure(extractor, real, store.read(indices), job.labels(indices)),
            "evaluations": job.plan().totals,
            "multiply_adds": job.macs(),
            "seconds": seconds,
        }
        shown = ", ".join(f"{k} {v:.3f}" for k, v in rows[name].items() if isinstance(v, float))
        print(f"{config.rows[name].title}: {shown}", flush=True)
    result = {
        "command": section.command,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "images": section.count,
        "sampler": config.sampler.to_dict(),
        "weights": config.sampling.weights.to_dict(),
        "real": real.description,
        "rows": rows,
    }
    (workdir / "evidence.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {workdir / 'evidence.json'}")
