"""How fast distances and precision and recall are, beside scipy's `sqrtm` and prdc.

    python benchmarks/metrics.py --out=benchmarks/metrics.json

``frechet``: two sets of features to their distance, and their covariances alone, against the
trace of `scipy.linalg.sqrtm`. ``manifold``: precision and recall against `compute_prdc` of PyPI's
prdc (which nothing else here uses), on features of float32, and the memory that ours takes beyond
them. Peer and ours run in turn, in an order that alternates; reported are the quotients, peer over
ours, as median and quartiles. ``images``: by how much measuring images raises memory, of few and of
ten times as many, where metrics want moments and means.
"""

import contextlib
import datetime
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import scipy
from absl import app, flags
from pairs import paired, summary

from guidestar import evaluation

SAMPLES = flags.DEFINE_integer("samples", 50_000, "samples of each set: frechet")
POINTS = flags.DEFINE_integer("points", 10_000, "samples of each set: manifold")
FEATURES = flags.DEFINE_integer("features", 2048, "features of a sample")
PAIRS = flags.DEFINE_integer("pairs", 3, "paired runs", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "JSON file for the results")
IMAGES = flags.DEFINE_integer("images", 50_000, "images that are measured: images")
CHILD = flags.DEFINE_string("child", "", "print the memory that a section takes, and end")
K = 3


def features(seed: int, samples: int) -> np.ndarray:
    """Return features with a spectrum that falls, as those of networks do, in float32."""
    random = np.random.default_rng(seed)
    count = FEATURES.value
    scales = (1 + np.arange(count)) ** -0.5
    mix = np.linalg.qr(np.random.default_rng(9).normal(size=(count, count)))[0] * scales[:, None]
    found = np.empty((samples, count), np.float32)
    for at in range(0, samples, 4096):
        part = found[at : at + 4096]
        part[:] = (random.normal(size=part.shape) @ mix) + 0.4
    return found


def of_peer(real, fake) -> float:
    """Return the distance as pytorch-fid takes it."""
    (m1, s1), (m2, s2) = real, fake
    root = scipy.linalg.sqrtm(s1 @ s2)
    return float(np.sum((m1 - m2) ** 2) + np.trace(s1) + np.trace(s2) - 2 * np.trace(root.real))


def frechet() -> dict:
    """Measure the distance from features and from moments."""
    real, fake = features(0, SAMPLES.value), features(1, SAMPLES.value) * np.float32(1.1)
    values = {}

    def ours():
        values["ours"] = evaluation.frechet_distance(real, fake)

    def peer():
        sets = [(x.mean(axis=0, dtype=np.float64), np.cov(x, rowvar=False)) for x in (real, fake)]
        values["peer"] = of_peer(*sets)

    whole = summary(paired(ours, peer, PAIRS.value))
    moments = [evaluation.moments(one) for one in (real, fake)]
    gaussians = [(one.mean, one.covariance) for one in moments]
    alone = summary(
        paired(
            lambda: evaluation.frechet_distance(*moments), lambda: of_peer(*gaussians), PAIRS.value
        )
    )
    apart = abs(values["ours"] - values["peer"]) / values["peer"]
    print(f"frechet: {whole['median']:.2f} of ours takes the peer from features", flush=True)
    print(f"frechet: {alone['median']:.2f} from moments; {apart:.1e} apart", flush=True)
    return {
        "samples": SAMPLES.value,
        "pairs": PAIRS.value,
        "peer_over_ours": whole,
        "peer_over_ours_from_moments": alone,
        "relative_difference": apart,
        **values,
    }


def manifold() -> dict:
    """Measure precision and recall."""
    from prdc import compute_prdc

    real, fake = features(0, POINTS.value), features(1, POINTS.value) * np.float32(1.02)
    values = {}

    def ours():
        values["ours"] = evaluation.precision_recall(real, fake, k=K)._asdict()

    def peer():
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(real, fake, nearest_k=K)
        values["peer"] = {name: float(found[name]) for name in ("precision", "recall")}

    ratios = summary(paired(ours, peer, PAIRS.value))
    beyond = growth("manifold")
    print(f"precision and recall: prdc takes {ratios['median']:.2f} of ours", flush=True)
    print(f"precision and recall: {beyond / 2**20:.0f} MiB beyond the features", flush=True)
    return {
        "samples": POINTS.value,
        "pairs": PAIRS.value,
        "peer_over_ours": ratios,
        "bytes_beyond_features": beyond,
        **values,
    }


def growth(section: str, *more: str) -> int:
    """Return by how much a section raises the memory of a process of its own, in bytes."""
    command = [sys.executable, *sys.argv, f"--child={section}", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def raised(run, small) -> int:
    """Return by how much ``run`` raises this process's resident memory, in bytes.

    Args:
        run: is measured.
        small: the same of little, run first for what libraries take for themselves.
    """
    small()
    before = resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    run()
    return resident("VmHWM") - before


def memory_of_manifold() -> int:
    """Return what precision and recall take beyond the features."""
    real, fake = features(0, POINTS.value), features(1, POINTS.value) * np.float32(1.02)
    return raised(
        lambda: evaluation.precision_recall(real, fake, k=K),
        lambda: evaluation.precision_recall(real[:100], fake[:100], k=K),
    )


def memory_of_images() -> int:
    """Return what measuring images takes, which are read 500 at a time."""
    shape, classes = (64, 64, 3), 10
    mix = np.random.default_rng(0).normal(size=(np.prod(shape), 512)).astype(np.float32)
    chosen = evaluation.choose(("frechet_distance", "agreement", "contrast", "saturation"))
    real = evaluation.Measured(evaluation.moments(np.random.default_rng(1).normal(size=(999, 512))))

    def batches(count):
        for start in range(0, count, 500):
            random = np.random.default_rng(start)
            images = random.integers(0, 256, (500, *shape), np.uint8)
            found = images.reshape(500, -1).astype(np.float32) @ mix
            probabilities = random.dirichlet(np.ones(classes), size=500)
            labels = np.arange(start, start + 500) % classes
            yield evaluation.Batch(found, probabilities, images, labels)

    return raised(
        lambda: evaluation.measure(chosen, batches(IMAGES.value), real),
        lambda: evaluation.measure(chosen, batches(1000), real),
    )


def images() -> dict:
    """Measure the memory of few images and of ten times as many."""
    few = IMAGES.value // 10
    found = {str(n): growth("images", f"--images={n}") for n in (few, IMAGES.value)}
    said = ", ".join(f"{bytes_ / 2**20:.0f} MiB for {n}" for n, bytes_ in found.items())
    print(f"measuring images of 64x64x3: {said}", flush=True)
    return {"bytes": found}


def resident(name: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


SECTIONS = {"frechet": frechet, "manifold": manifold, "images": images}
MEMORY = {"manifold": memory_of_manifold, "images": memory_of_images}
ONLY = flags.DEFINE_multi_enum("only", list(SECTIONS), list(SECTIONS), "what to measure")


def main(_):
    """Run the comparisons, print them, and write or update the results file."""
    if CHILD.value:
        print(MEMORY[CHILD.value]())
        return
    path = pathlib.Path(OUT.value) if OUT.value else None
    record = json.loads(path.read_text()) if path and path.exists() else {}
    record |= {
        "command": "python benchmarks/metrics.py --out=benchmarks/metrics.json",
        "date": datetime.date.today().isoformat(),
        "device": f"{os.cpu_count()} cores",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "features": FEATURES.value,
    }
    for name in ONLY.value:
        record[name] = SECTIONS[name]()
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
