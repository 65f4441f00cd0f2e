"""Inception features, images a second: ours against pytorch-fid's on the same cores, in turn.

    python benchmarks/extractors.py --torch=PYTHON [--images=50] [--side=256] [--pairs=3]

PYTHON is one with torch, torchvision and pytorch-fid. Both have random weights, take uint8 images
and return 2048 features of each; 5.71 G multiply-adds an image are the network's on both sides.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np

MACS = 5_713_232_480
BATCH = 50


def pictures(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def other(count: int, side: int) -> None:
    """Be pytorch-fid: extract once for every line that is read, and answer it."""
    # torchvision's compiled part may be of another torch, and its networks do without it.
    name = "torchvision._meta_registrations"
    sys.modules[name] = types.ModuleType(name)
    import pytorch_fid.inception as published
    import torch
    import torchvision

    published.load_state_dict_from_url = lambda *given, **options: {}
    torchvision.models.Inception3.load_state_dict = lambda self, state: None
    network = published.InceptionV3([published.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    x = torch.from_numpy(pictures(count, side).transpose(0, 3, 1, 2).copy())
    for _ in sys.stdin:
        with torch.no_grad():
            for start in range(0, count, BATCH):
                (found,) = network(x[start : start + BATCH].float() / 255)
        print(tuple(found.shape[1:]), torch.get_num_threads(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", required=True)
    parser.add_argument("--images", type=int, default=BATCH)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()

    import jax
    from pairs import paired, summary

    from guidestar import models
    from guidestar.evaluation.extractors import inception
    from guidestar.models.checkpoints import save

    section = {"name": "inception_v3"}
    spec = models.build(section)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.safetensors"
        save(path, spec.initialise(jax.random.key(0)), section, {})
        extractor = inception(str(path), batch_size=BATCH)
    assert extractor.macs == MACS - 2048 * 1008 + 2048 * extractor.num_classes
    x, sides = pictures(asked.images, asked.side), [str(asked.images), str(asked.side)]
    process = subprocess.Popen(
        [asked.torch, __file__, "--other", *sides],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    seconds: dict[str, list[float]] = {"ours": [], "pytorch-fid": []}

    def timed(name, run):
        def once():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)

        return once

    def theirs() -> None:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("(2048")

    ratios = paired(timed("ours", lambda: extractor(x)), timed("pytorch-fid", theirs), asked.pairs)
    process.stdin.close()
    process.wait()
    for name, each in seconds.items():
        rate = asked.images / np.median(each[1:])
        print(f"{name}: {rate:.2f} images/s, {rate * MACS / 1e9:.1f} G multiply-adds/s")
    print({"times faster": summary(ratios)}, "of", np.round(ratios, 2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--other"]:
        other(*map(int, sys.argv[2:]))
    else:
        main()
