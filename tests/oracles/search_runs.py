"""What searches for schedules are run on."""

import jax
import numpy as np
from oracles.analytic import SPREAD
from oracles.solver_runs import GOLDEN

from guidestar import guidance
from guidestar.models.exact.mixture import GaussianMixture

UNGUIDED = guidance.unguided()


@jax.tree_util.Partial
def denoise_golden(x, sigma, condition):
    golden = np.load(GOLDEN)
    mixture = GaussianMixture(golden["weights"], golden["means"], golden["covariances"])
    return mixture.denoise(x, sigma)


@jax.tree_util.Partial
def contract(x, sigma, condition):
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def noise_of(count, size=3, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, size))
