"""Write an extractor's features of images, on eight devices: WEIGHTS, then OUT.npy."""

import sys

import jax
import numpy as np
from golden.make_extractors import images

from guidestar.evaluation.extractors import dinov2


def main(weights: str, out: str) -> None:
    assert jax.device_count() == 8
    np.save(out, dinov2(weights, batch_size=5)(images(11, 40, 30, 3)).features)


if __name__ == "__main__":
    main(*sys.argv[1:])
