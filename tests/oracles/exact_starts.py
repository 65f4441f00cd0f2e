"""Orders of convergence: regressed errors, from the flow's own states where a solver needs them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from oracles.analytic import keys
from oracles.multistep_runs import NOISE, denoise_line, finely, grid, plainly
from oracles.solver_runs import exact_end, line_mixture

from guidestar.guidance.protocol import Guided
from guidestar.samplers.solvers.exponential import ExponentialMultistep
from guidestar.samplers.solvers.solver import Interval


@partial(jax.jit, static_argnums=0)
def follow(solver, x, state, steps):
    """Take steps of an exponential multistep solver, unguided."""

    def step(carry, interval):
        x, _, state = solver.step(
            lambda x, sigma: Guided(denoise_line(x, sigma, None)),
            carry[0],
            interval,
            carry[1],
            keys(len(NOISE)),
        )
        return (x, state), None

    return jax.lax.scan(step, (x, state), steps)[0][0]


def from_exact_states(solver, sigmas):
    """Return the end of a run whose states up to the first full step are the flow's own.

    Args:
        solver: an `ExponentialMultistep` that differs from others in its tables alone.
        sigmas: the schedule; `test_multistep.NOISE` times the first of them is where it starts.
    """
    assert type(solver).step is ExponentialMultistep.step, "its steps would not be its own"
    past = solver.past
    states = finely(sigmas[: past + 1])
    predictions = [denoise_line(x, s, None) for x, s in zip(states, sigmas, strict=False)]
    rows = jax.tree.map(lambda table: np.array(table[past:]), solver.tables(sigmas))
    if rows.correct is not None:
        # What the first step starts from is exact as it is.
        rows.correct[0] = 0
    steps = Interval(sigmas[past:-1], sigmas[past + 1 :], rows)
    # One compiled program runs all families.
    return follow(ExponentialMultistep(past), states[-1], tuple(predictions[-2::-1]), steps)


@cache
def truth():
    """Return where the flow leads from sigma 5 to 0.05; to be called in float64."""
    return np.asarray(exact_end(line_mixture(), 5.0 * jnp.asarray(NOISE), 5.0, 0.05))


def regressed(solver, end=plainly, counts=(90, 180, 360)):
    """Return the order with which a solver's error falls, and the errors.

    Args:
        solver: any.
        end: makes a run's end of solver and sigmas.
        counts: numbers of steps on Karras et al.'s schedule.
    """
    errors = [np.abs(end(solver, grid("karras", n)) - truth()).max() for n in counts]
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0], errors
