"""How fast examples are read: records of latents in random order, alone and through the pipeline.

    python benchmarks/input.py --out=benchmarks/input.json

Records are as large as the latents of 256x256 images with their spread, 32x32x8 in float16. One
thread reads batches at random places of a folder in several shards; the pipeline makes batches of
them as training takes them. The folder is in the page cache: a disk's own speed comes on top.
"""

import datetime
import json
import os
import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags

from guidestar import input_pipeline
from guidestar.data import record_folder

RECORDS = flags.DEFINE_integer("records", 16_384, "records in the folder", lower_bound=1024)
RUNS = flags.DEFINE_integer("runs", 5, "timed passes", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "JSON file for the results")
SHAPE, BATCH, SHARDS = (32, 32, 8), 256, 4
# Where a run begins: anew, and in its tenth epoch.
PLACES = {"fresh": 0, "resumed": 10 * 2**14}


def write(folder: pathlib.Path) -> None:
    """Write a folder of random latents."""
    writer = record_folder.Writer(folder, dict(shape=SHAPE, dtype="float16", num_classes=10))
    random = np.random.default_rng(0)
    each = RECORDS.value // SHARDS
    for shard in range(SHARDS):
        latents = random.normal(size=(each, *SHAPE)).astype(np.float16)
        writer.write(shard, latents, np.arange(each) % 10)
    writer.finish(SHARDS)


def rates(read) -> dict[str, float]:
    """Return records a second over the timed passes."""
    found = []
    for _ in range(RUNS.value + 1):
        started = time.perf_counter()
        count = read()
        found.append(count / (time.perf_counter() - started))
    return {
        "median": float(np.median(found[1:])),
        "low": float(np.min(found[1:])),
        "high": float(np.max(found[1:])),
    }


def first_batch(source, seen: int) -> float:
    """Return the median time to the first batch of a pipeline, in seconds."""
    found = []
    for _ in range(RUNS.value + 1):
        started = time.perf_counter()
        pipeline = input_pipeline.Pipeline(source, BATCH, seed=0, state={"examples_seen": seen})
        next(pipeline)
        found.append(time.perf_counter() - started)
        pipeline.close()
    return float(np.median(found[1:]))


def main(_):
    """Measure, print, and write the results."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "latents"
        write(folder)
        source = record_folder.load(folder)
        random = np.random.default_rng(1)

        def alone():
            order = random.permutation(source.num_examples)
            for start in range(0, len(order) - BATCH + 1, BATCH):
                source.read(order[start : start + BATCH])
            return len(order) // BATCH * BATCH

        pipeline = input_pipeline.Pipeline(source, BATCH, seed=0)

        def piped():
            batches = source.num_examples // BATCH
            for _ in range(batches):
                next(pipeline)
            return batches * BATCH

        results = {"one thread": rates(alone), "pipeline": rates(piped)}
        pipeline.close()
        first = {name: first_batch(source, seen) for name, seen in PLACES.items()}
    for name, row in results.items():
        print(
            f"{name:12s} {row['median']:,.0f} records/s ({row['low']:,.0f} to {row['high']:,.0f})"
        )
    for name, seconds in first.items():
        print(f"first batch, {name:8s} {1000 * seconds:.0f} ms")
    if OUT.value:
        record = {
            "command": "python benchmarks/input.py --out=benchmarks/input.json",
            "date": datetime.date.today().isoformat(),
            "cores": os.cpu_count(),
            "record_bytes": int(np.prod(SHAPE)) * 2 + 4,
            "records_per_second": results,
            "first_batch_seconds": first,
        }
        pathlib.Path(OUT.value).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
