"""A metric of one's own: how far samples are from being mirror images of themselves.

PYTHONPATH=examples python main.py --config=configs/evidence.py:cfg_3 --workdir=out/mirrored \
        --mode=evaluate --config.imports=own_metric \
        --config.evaluation.metrics="('frechet_distance', 'asymmetry')"
"""

import numpy as np

from guidestar import evaluation, register


@register("metric")
def asymmetry(images, *, power: float = 1.0):
    """Return the mean difference, in [0, 1], of pixels and those they are mirrored to.

    What it asks for is named as `evaluation.Measured` names it; ``power`` is set by a config.
    """
    pixels = np.asarray(images, np.float64) / 255
    return float(np.mean(np.abs(pixels - pixels[:, :, ::-1]) ** power))


def main():
    """Return what it says of random images and of their symmetric halves."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
    mirrored = np.where(np.arange(8)[:, None] < 4, noise, noise[:, :, ::-1])
    features = noise.reshape(50, -1)[:, :2].astype(np.float32)
    chosen = evaluation.choose(("asymmetry", {"name": "contrast"}))
    batches = [evaluation.Batch(features, None, one, None) for one in (noise, mirrored)]
    return [evaluation.measure(chosen, [one], evaluation.Measured()) for one in batches]


if __name__ == "__main__":
    print(*main(), sep="\n")
