"""What linear multistep solvers are run on, and how."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from oracles.solver_runs import GOLDEN, line_mixture, run

from guidestar import samplers
from guidestar.guidance.protocol import Guided
from guidestar.models.exact.mixture import GaussianMixture
from guidestar.samplers.solvers.deis import deis
from guidestar.samplers.solvers.multistep import Multistep
from guidestar.samplers.solvers.solver import Interval

NOISE = np.array([[-1.2], [-0.3], [0.4], [1.5]])


@jax.tree_util.Partial
def denoise_line(x, sigma, condition):
    return line_mixture().denoise(x, sigma)


@jax.tree_util.Partial
def denoise_golden(x, sigma, condition):
    golden = np.load(GOLDEN)
    mixture = GaussianMixture(golden["weights"], golden["means"], golden["covariances"])
    return mixture.denoise(x, sigma)


@jax.tree_util.Partial
def contract(x, sigma, condition):
    return x / (1 + sigma**2)


def grid(kind, count):
    """Return ``count`` steps from 5 down to 0.05."""
    if kind == "equal":
        return np.linspace(5.0, 0.05, count + 1)
    return samplers.karras(count + 1, 0.05, 5.0, final_zero=False)


def finely(sigmas, finer=64):
    """Return the states of the flow at ``sigmas``, from classical Runge-Kutta on a finer grid."""
    nodes = np.arange(len(sigmas) - 1, step=1 / finer)
    fine = np.append(np.interp(nodes, np.arange(len(sigmas)), sigmas), sigmas[-1])
    end, kept = run(deis(4, "rhork"), denoise_line, fine, jnp.asarray(NOISE), save="x")
    return [*kept["x"][::finer], end]


@partial(jax.jit, static_argnums=0)
def follow(solver, x, state, steps):
    """Take steps of a multistep solver, unguided."""

    def step(carry, interval):
        x, _, state = solver.step(
            lambda x, sigma: Guided(denoise_line(x, sigma, None)),
            carry[0],
            interval,
            carry[1],
            None,
        )
        return (x, state), None

    return jax.lax.scan(step, (x, state), steps)[0][0]


def from_exact_states(solver, sigmas):
    """Return the end of a run whose first ``directions`` states are the flow's own."""
    known = solver.directions
    states = finely(sigmas[:known])
    slopes = [(x - denoise_line(x, s, None)) / s for x, s in zip(states, sigmas, strict=False)]
    rows = jax.tree.map(lambda table: table[known - 1 :], solver.tables(sigmas))
    steps = Interval(sigmas[known - 1 : -1], sigmas[known:], rows)
    # Families differ in their tables alone, so one compiled program runs them all.
    return follow(Multistep(known), states[-1], tuple(slopes[-2::-1]), steps)


def plainly(solver, sigmas):
    """Return the end of a run as `sample` makes it."""
    return run(solver, denoise_line, sigmas, NOISE)
