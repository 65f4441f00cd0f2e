"""The report verb: the same seeds under every rule of a config, as one self-contained page."""

import json
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from ...commands.evaluate import row_config
from ...commands.sample import job_from_config
from ...data.images import grid, save_png, to_uint8
from ...evaluation.extractors import in_batches, make_extractor
from ...inference.job import Job
from ...models.checkpoints import SHIPPED
from .. import point_cloud_plot
from ..fractal2d.experiment import clouds
from . import page


def _sample_row(job: Job, count: int, batch: int, bar: tqdm) -> tuple[np.ndarray, float]:
    """Return images and seconds an image, compilation excluded."""
    job.images(np.arange(batch))  # compiles
    parts, started = [], time.monotonic()
    for begin in range(0, count, batch):
        indices = np.arange(begin, min(begin + batch, count))
        parts.append(job.images(np.resize(indices, batch))[: len(indices)])
        bar.update(len(indices))
    return to_uint8(np.concatenate(parts)), (time.monotonic() - started) / count


def report(config, workdir: Path) -> None:
    """Sample, measure live, and write ``index.html``, PNG grids and ``metrics.json``.

    Args:
        config: has ``rows``, ``demo`` (seeds and batch size), ``evaluation`` and ``fractal``.
        workdir: everything is written here.

    Raises:
        UserError: anything in any row that cannot run, before the first image.
    """
    extractor = make_extractor(config.evaluation.classifier)
    jobs = {name: job_from_config(row_config(config, name)) for name in config.rows}
    classes = extractor.num_classes
    count = config.demo.seeds * classes
    rows = {}
    with tqdm(total=count * len(jobs), unit="image", dynamic_ncols=True) as bar:
        for name, job in jobs.items():
            bar.set_description(config.rows[name].title)
            images, seconds = _sample_row(job, count, config.demo.batch_size, bar)
            predicted = np.argmax(in_batches(extractor, images).probabilities, axis=-1)
            save_png(workdir / f"{name}.png", grid(images, columns=classes), magnify=2)
            plan = job.plan()
            rows[name] = {
                "title": config.rows[name].title,
                "rule": config.rows[name].guidance.to_dict(),
                "agreement": float(np.mean(predicted == job.labels(np.arange(count)))),
                "evaluations": plan.totals,
                "multiply_adds": plan.macs,
                "seconds_per_image": seconds,
                "grid": f"{name}.png",
            }
    print("fractal2d: three point clouds", flush=True)
    panels, points = clouds(config.fractal, config.fractal.weights.to_dict())
    point_cloud_plot.save(panels, workdir / "fractal2d.png")
    evidence_path = SHIPPED / f"{config.demo.stored}.json"
    evidence = json.loads(evidence_path.read_text()) if evidence_path.exists() else None
    metrics = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "images": count,
        "rows": rows,
        "fractal2d": points,
    }
    (workdir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (workdir / "index.html").write_text(page.render(metrics, evidence, workdir))
    for row in rows.values():
        print(
            f"{row['title']:32s} classifier agrees {row['agreement']:6.1%}   "
            f"{sum(row['evaluations'].values()):3d} evaluations   "
            f"{row['seconds_per_image']:.3f} s an image"
        )
    print(f"open {workdir / 'index.html'}")
