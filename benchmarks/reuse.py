"""What evaluations not made cost: references that are reused, against all of CFG's.

    python benchmarks/reuse.py --out=benchmarks/reuse.json

The demo's network (configs/demo.py), images of the same noise in every row. Each row is compared
with CFG in full: evaluations of the network and processor time an image, RMS distance from CFG's
own images, and Frechet distance from the data in the features of the shipped classifier. Rows that
the file holds already are not measured again.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from guidestar import guidance, samplers
from guidestar.commands.sample import job_from_config
from guidestar.configs import demo
from guidestar.evaluation.extractors import make_extractor
from guidestar.evaluation.statistics import RealStatistics, find_statistics
from guidestar.models.checkpoints import SHIPPED
from guidestar.studies.solvers.problems import Images


class Row(NamedTuple):
    """A rule, a solver, and how many steps it takes; how many renew, where they are chosen."""

    rule: guidance.Rule
    solver: str
    steps: int
    chosen: int = 0


CFG = guidance.cfg(2.0)
# The first is what the others are compared with.
ROWS = {
    "cfg": Row(CFG, "heun", 12),
    "chosen_4": Row(CFG, "heun", 12, chosen=4),
    "cfg_12": Row(CFG, "dpmpp", 12),
    "every_2_15": Row(guidance.reuse(CFG), "dpmpp", 15),
    "chosen_5_18": Row(CFG, "dpmpp", 18, chosen=5),
    "chosen_4_12": Row(CFG, "dpmpp", 12, chosen=4),
}
# Images of other noise, from which steps that renew are chosen.
PILOT = 32
COUNT = flags.DEFINE_integer("count", 2000, "images a row", lower_bound=2)
BATCH = flags.DEFINE_integer("batch", 100, "images at once", lower_bound=1)
ONLY = flags.DEFINE_multi_enum("only", list(ROWS), list(ROWS), "rows to measure beside the first")
OUT = flags.DEFINE_string("out", "", "JSON file for the results")


def problem(row: Row, config) -> tuple[Images, samplers.Sampler]:
    """Return a row's images, not yet sampled, and how they are."""
    config.sampler.schedule.steps = row.steps
    config.sampler.solver = dict(name=row.solver)
    job = dataclasses.replace(job_from_config(config), rule=row.rule, evaluated=None)
    chosen = config.evaluation
    extractor = make_extractor(chosen.classifier)
    real = RealStatistics.load(find_statistics(chosen.statistics, (SHIPPED,)))
    return Images(job, COUNT.value, BATCH.value, extractor, real), job.sampler


def measured(row: Row, full: np.ndarray | None) -> tuple[dict, np.ndarray]:
    """Return a row's numbers and its images; ``full`` are those it is compared with."""
    images, sampler = problem(row, demo.get_config())
    text = str(row.rule)
    if row.chosen:
        levels = samplers.tuning.renewals(
            *(images.denoise, row.rule, sampler.solver, sampler.sigmas),
            *(images.other_noise(PILOT), images.conditions(PILOT), jax.random.key(1)),
            count=row.chosen,
        )
        images.job = dataclasses.replace(images.job, rule=guidance.reuse(row.rule, levels))
        text = f"reuse({text}, ({', '.join(f'{level:.4g}' for level in levels)}))"
    images.job.images(np.arange(BATCH.value))  # compiles
    started = time.process_time()
    ends = images.ends(sampler)
    seconds = time.process_time() - started
    numbers = images.measure(ends, ends if full is None else full)
    return {
        "rule": text,
        "solver": f"{row.solver}, {row.steps} steps",
        "evaluations": sum(images.job.plan().totals.values()),
        "milliseconds": 1e3 * seconds / COUNT.value,
        "rms": numbers["distance"],
        "frechet_distance": numbers["frechet_distance"],
    }, ends


def main(_):
    """Measure the rows, print them, and write or update the results file."""
    path = pathlib.Path(OUT.value) if OUT.value else None
    record = json.loads(path.read_text()) if path and path.exists() else {}
    record |= {
        "command": "python benchmarks/reuse.py --out=benchmarks/reuse.json",
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "images": COUNT.value,
    }
    rows = record.setdefault("rows", {})
    first = next(iter(ROWS))
    full = None
    for name in [first, *(one for one in ONLY.value if one != first)]:
        if name in rows and name != first:
            continue
        numbers, ends = measured(ROWS[name], full)
        full = ends if full is None else full
        rows[name] = numbers
        print(name, numbers, flush=True)
        if path:
            path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
