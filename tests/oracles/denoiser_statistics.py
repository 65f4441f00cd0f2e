"""Statistics of denoisers, made up."""

import numpy as np

from guidestar.samplers.solvers.statistics import Statistics, grid


def waves(low=0.002, high=80.0, intervals=40, shape=(3,)):
    """Return smooth statistics of no denoiser in particular, another in every element."""
    lambdas = grid(low, high, intervals)
    phase = np.arange(np.prod(shape)).reshape(shape)
    t = lambdas.reshape((-1,) + (1,) * len(shape)) / 3 + phase
    return Statistics(0.5 + 0.4 * np.sin(t), 0.3 * np.cos(2 * t), np.sin(t + 1), lambdas)
