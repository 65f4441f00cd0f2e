"""Runs of solvers on exact denoisers, and where the exact flow ends."""

import jax
import jax.numpy as jnp
import numpy as np
import places
from oracles.analytic import keys

from guidestar import guidance, samplers
from guidestar.models.exact.mixture import GaussianMixture

GOLDEN = places.GOLDEN / "samplers_gmm.npz"


def run(solver, denoise, sigmas, noise, **options):
    return samplers.sample(
        denoise, guidance.unguided(), solver, sigmas, noise, None, keys(len(noise)), **options
    )


def line_mixture():
    """The one-dimensional mixture on which orders are measured."""
    return GaussianMixture(
        np.array([0.3, 0.7]), np.array([[-1.0], [0.8]]), np.array([[[0.25**2]], [[0.4**2]]])
    )


def exact_end(mixture, start, sigma, end, steps=4000):
    """Follow the flow with RK4 in log sigma, far finer than any solver under test."""

    def slope(x, log_sigma):
        return x - mixture.denoise(x, jnp.exp(log_sigma))

    grid = jnp.linspace(np.log(sigma), np.log(end), steps + 1)
    h = grid[1] - grid[0]

    def step(x, t):
        a = slope(x, t)
        b = slope(x + h / 2 * a, t + h / 2)
        c = slope(x + h / 2 * b, t + h / 2)
        d = slope(x + h * c, t + h)
        return x + h / 6 * (a + 2 * b + 2 * c + d), None

    return jax.lax.scan(step, start, grid[:-1])[0]
