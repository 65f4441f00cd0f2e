"""The demo mode: the same seeds under every rule of a config, as one self-contained page."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ...commands.config.sections import section
from ...commands.measuring.rows import planned_job
from ...commands.sample import require_counts
from ...core.errors import UserError
from ...core.files import read_json, write_json, write_text
from ...data.images import grid, save_png, to_uint8
from ...evaluation.extractors import in_batches, make_extractor, require_images
from ...guidance.evaluations import counts_text
from ...inference.job import Job
from ...inference.shared import SharedNetworks, grouped
from ...models.checkpoints import SHIPPED
from .. import point_cloud_plot
from ..fractal2d.experiment import clouds
from . import page

EXAMPLE = "configs/demo.py"


def _sample_row(
    job: Job, count: int, batch: int, bar: tqdm
) -> tuple[UInt8[np.ndarray, "count h w c"], float]:
    """Return images and seconds an image, compilation excluded."""
    job.finite_images(np.arange(batch))  # compiles
    parts, started = [], time.monotonic()
    for begin in range(0, count, batch):
        indices = np.arange(begin, min(begin + batch, count))
        parts.append(job.finite_images(np.resize(indices, batch))[: len(indices)])
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
    demo = section(config, "demo", fields=("seeds", "batch_size", "stored"), example=EXAMPLE)
    require_counts("demo", seeds=demo.seeds, batch_size=demo.batch_size)
    chosen = section(config, "evaluation", fields=("classifier",), example=EXAMPLE)
    fractal = section(config, "fractal", fields=("weights", "rows", "sampler"), example=EXAMPLE)
    titles = section(config, "rows", fields=(), example=EXAMPLE)
    extractor, networks = make_extractor(chosen.classifier), SharedNetworks()
    jobs = {name: planned_job(config, name, networks) for name in titles}
    for name, job in jobs.items():
        require_images(extractor, job.main.shape, f"rows.{name}")
        if job.main.latent:
            raise UserError(f"rows.{name}: the demo shows samples as pictures, not latents")
    classes = extractor.num_classes
    count = demo.seeds * classes
    measured = {}
    with tqdm(total=count * len(jobs), unit="image", dynamic_ncols=True) as bar:
        for name in grouped(jobs):
            bar.set_description(titles[name].title)
            job = networks.ready(jobs[name])
            images, seconds = _sample_row(job, count, demo.batch_size, bar)
            predicted = np.argmax(in_batches(extractor, images).probabilities, axis=-1)
            save_png(workdir / f"{name}.png", grid(images, columns=classes), magnify=2)
            plan, labels = job.plan(), job.labels(np.arange(count))
            measured[name] = {
                "title": titles[name].title,
                "rule": titles[name].guidance.to_dict(),
                "agreement": None if labels is None else float(np.mean(predicted == labels)),
                "evaluations": plan.totals,
                "multiply_adds": plan.macs,
                "seconds_per_image": seconds,
                "grid": f"{name}.png",
            }
    print("fractal2d: three point clouds", flush=True)
    panels, points = clouds(fractal, fractal.weights.to_dict())
    point_cloud_plot.save(panels, workdir / "fractal2d.png")
    metrics = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "images": count,
        "rows": {name: measured[name] for name in jobs},
        "fractal2d": points,
    }
    write_json(workdir / "metrics.json", metrics)
    write_text(workdir / "index.html", page.render(metrics, _stored(demo.stored), workdir))
    for row in metrics["rows"].values():
        print(
            f"{row['title']:32s} classifier agrees {page.share(row['agreement']):>6}   "
            f"{counts_text(row['evaluations'])} evaluations, {row['multiply_adds'] / 1e9:.3g} G "
            f"multiply-adds, {row['seconds_per_image']:.3f} s an image"
        )
    print(f"open {workdir / 'index.html'}")


def _stored(name: str) -> Mapping[str, Any] | None:
    """Return an evaluation that is shipped with the package; None where it is not there."""
    path = SHIPPED / f"{name}.json"
    return read_json(path, "restore it from the package") if path.exists() else None
