"""The examples run and do what they say."""

import runpy

import numpy as np
from places import ROOT

EXAMPLES = ROOT / "examples"


def test_a_loop_of_ones_own_separates_the_classes():
    images = runpy.run_path(str(EXAMPLES / "own_sampler.py"))["main"]()
    means = np.asarray(images).mean(axis=(1, 2, 3))
    assert (means[::2] < -0.5).all() and (means[1::2] > 0.5).all()
