"""Time travel and RePaint: what they evaluate, what they keep, what they sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar import guidance, samplers
from guidestar.guidance import operators

PLAIN, ANCESTRAL = guidance.unguided(), samplers.ancestral()
COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])
FIRST, Y, COUNT = operators.matrix([[1.0, 0.0]]), [1.5], 8_000
SIGMAS = samplers.karras(250, 0.002, 80.0)


@jax.tree_util.Partial
def correlated(x, sigma, condition):
    """Denoise two values of unit variance and a correlation of 0.8."""
    noisy = COVARIANCE + sigma**2 * jnp.eye(2, dtype=x.dtype)
    return x @ jnp.linalg.solve(noisy, jnp.asarray(COVARIANCE, x.dtype))


def run(solver, sigmas=SIGMAS, rule=PLAIN, count=COUNT):
    noise = jax.random.normal(jax.random.key(0), (count, 2))
    return samplers.sample(correlated, rule, solver, sigmas, noise, None, jax.random.key(1))


def total(solver, sigmas):
    return samplers.plan(solver, sigmas, PLAIN, (2,)).totals["main"]


@pytest.mark.longer
def test_the_papers_schedule_has_as_many_evaluations_as_its_code():
    assert total(samplers.repaint(FIRST, Y), SIGMAS) == 2410
    assert total(samplers.repaint(FIRST, Y, repeats=1), SIGMAS) == 250


@pytest.mark.parametrize(
    ("repeats", "jump", "steps", "evaluations"), [(3, 1, 4, 10), (2, 2, 7, 13), (2, 5, 3, 3)]
)
def test_jumps_end_at_the_last_level_above_0(repeats, jump, steps, evaluations):
    sigmas = samplers.karras(steps)
    assert total(samplers.recur(ANCESTRAL, repeats, jump), sigmas) == evaluations


def test_jumps_outside_the_window_are_taken_once():
    sigmas = np.array([8.0, 4.0, 2.0, 1.0, 0.0])
    solver = samplers.recur(ANCESTRAL, 3, low=2.0, high=4.0)
    counts = samplers.plan(solver, sigmas, PLAIN, (2,)).evaluations
    assert [step["main"] for step in counts] == [1, 3, 1, 1]


@pytest.mark.longer
@pytest.mark.parametrize("solver", [ANCESTRAL, samplers.euler()])
def test_taking_steps_once_is_the_solver_itself(solver):
    sigmas = samplers.karras(5)
    np.testing.assert_array_equal(
        run(samplers.recur(solver, 1), sigmas, count=3), run(solver, sigmas, count=3)
    )


# The exact posterior is N(1.2, 0.36); at 250 steps ancestral sampling itself narrows it. The
# numbers are those of an independent computation in float64.
@pytest.mark.parametrize(
    ("repeats", "mean", "variance"),
    [
        (1, 0.741, 0.478),
        pytest.param(2, 0.940, 0.410, marks=pytest.mark.longer),
        pytest.param(10, 1.151, 0.353, marks=pytest.mark.longer),
    ],
)
def test_repaint_nears_the_posterior_as_its_steps_are_taken_anew(repeats, mean, variance):
    x = np.asarray(run(samplers.repaint(FIRST, Y, repeats=repeats, jump=1)))
    np.testing.assert_allclose(x[:, 0], 1.5, atol=1e-6)
    assert abs(x[:, 1].mean() - mean) < 0.03 and abs(x[:, 1].var() - variance) < 0.03


@pytest.mark.longer
def test_a_jump_of_several_steps_leaves_the_law_of_unguided_samples():
    sigmas = samplers.karras(40, 0.01, 20.0)
    once, again = (np.cov(np.asarray(run(s, sigmas)).T) for s in (ANCESTRAL, travel(3, 4)))
    np.testing.assert_allclose(again, once, atol=0.08)


def travel(repeats, jump):
    return samplers.recur(ANCESTRAL, repeats, jump)


@pytest.mark.longer
def test_rules_are_told_where_each_step_of_a_jump_ends():
    # DDRM leaves the observed value with the noise of the step's end: wrong ends would leave it
    # with too much noise for the next level, and the measurement would not come out.
    rule, sigmas = guidance.ddrm(FIRST, Y, 0.05), samplers.karras(12, 0.02, 20.0)
    solver = samplers.recur(samplers.euler(), 3, 3)
    x = np.asarray(run(solver, sigmas, rule, 2000))
    assert abs(x[:, 0].mean() - 1.5) < 0.02 and x[:, 0].std() < 0.06


@pytest.mark.longer
def test_all_that_is_known_comes_out():
    whole = operators.matrix(np.eye(2))
    x = run(samplers.repaint(whole, [0.3, -2.0], repeats=2, jump=2), samplers.karras(6), count=4)
    np.testing.assert_allclose(x, jnp.broadcast_to(jnp.array([0.3, -2.0]), (4, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.recur(samplers.heun()), "samplers.recur: goes around a solver that"),
        (lambda: samplers.recur(ANCESTRAL, 0), "samplers.recur: repeats must be a whole number"),
        (lambda: samplers.recur(ANCESTRAL, 2, 0), "samplers.recur: jump must be a whole number"),
        (lambda: samplers.recur(ANCESTRAL, low=2.0, high=1.0), "need 0 <= low < high"),
        (lambda: samplers.repaint(FIRST, [np.inf]), "repaint: measurement has numbers"),
    ],
)
def test_travels_that_cannot_be_made_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
