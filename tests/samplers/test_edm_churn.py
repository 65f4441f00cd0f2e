"""EDM's stochastic sampler: where it adds noise, how much, and what comes after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD
from oracles.noisy_runs import (
    SIGMAS,
    agrees_with_golden,
    belongs_to_the_sample,
    compiles_nothing,
    counts,
    draw_moments,
    ends_in_the_answer,
    follow_by_hand,
    share,
    shifted,
)
from oracles.solver_runs import run

from guidestar import samplers
from guidestar.samplers.solvers.edm_churn import edm_churn
from guidestar.samplers.solvers.heun import heun


def churned(s_churn, s_tmin, s_tmax, s_noise):
    """Return algorithm 2 by hand."""

    def by_hand(denoise, sigmas, x, draw):
        steps = len(sigmas) - 1
        for i in range(steps):
            a, b = sigmas[i], sigmas[i + 1]
            gamma = min(s_churn / steps, np.sqrt(2) - 1) if s_tmin <= a <= s_tmax else 0
            hat = a + gamma * a
            x = x + np.sqrt(hat**2 - a**2) * s_noise * draw(i)
            d = (x - denoise(x, hat)) / hat
            u = x + (b - hat) * d
            x = u if b == 0 else x + (b - hat) * (d + (u - denoise(u, b)) / b) / 2
        return x

    return by_hand


@pytest.mark.parametrize("end", ["above 0", "at 0"])
@pytest.mark.parametrize(
    "numbers", [(0.8, 0.1, 2.5, 1.003), (40.0, 0.0, np.inf, 1.0), (40.0, 0.05, 50.0, 1.003)]
)
def test_draws_follow_the_algorithm_by_hand(numbers, end, x64):
    sigmas = SIGMAS if end == "above 0" else np.append(SIGMAS, 0.0)
    follow_by_hand(edm_churn(*numbers), churned(*numbers), sigmas)


def test_samples_have_the_exact_moments():
    draw_moments(edm_churn(40, 0.1, 3.0, 1.003), churned(40, 0.1, 3.0, 1.003))


@pytest.mark.parametrize("final_zero", [True, False])
def test_without_churn_it_is_heun_to_the_bit(final_zero):
    sigmas = samplers.karras(7, final_zero=final_zero)
    noise = jax.random.normal(jax.random.key(0), (4, 3))
    ends = [run(solver, shifted, sigmas, noise) for solver in (edm_churn(0), heun())]
    np.testing.assert_array_equal(*ends)


def test_the_published_implementation_agrees_in_float64(x64):
    agrees_with_golden(edm_churn(0), "edm_heun")


def test_noise_is_raised_by_gamma_within_the_range():
    sigmas = np.array([8.0, 4.0, 2.0, 1.0, 0.0])
    table = edm_churn(0.4, 2.0, 4.0, 1.0).tables(sigmas)
    # 0.4 in 4 steps; both ends of the range are in it, and 4.4, raised from 4, is no reason not to.
    np.testing.assert_allclose(table.sigma, [8.0, 4.4, 2.2, 1.0], rtol=1e-12)
    np.testing.assert_allclose(
        table.noise, [0, np.sqrt(4.4**2 - 16), np.sqrt(2.2**2 - 4), 0], rtol=1e-12
    )
    # At most to twice the variance.
    table = edm_churn(40, 0.0, 50.0, 1.0).tables(sigmas)
    np.testing.assert_allclose(table.sigma[:-1], np.sqrt(2) * sigmas[:-2], rtol=1e-12)
    np.testing.assert_allclose(table.noise[:-1], sigmas[:-2], rtol=1e-12)


@pytest.mark.parametrize(("s_noise", "excess"), [(1.0, 0.0), (1.003, 0.003 * 2.003)])
def test_a_churn_leads_to_the_distribution_of_its_level_only_without_excess(s_noise, excess):
    table = edm_churn(3.0, 0.0, 50.0, s_noise).tables(SIGMAS)
    added = table.sigma**2 - SIGMAS[:-1] ** 2
    assert (added > 0.9).any()
    reached = SPREAD**2 + SIGMAS[:-1] ** 2 + table.noise**2
    np.testing.assert_allclose(reached - SPREAD**2 - table.sigma**2, excess * added, atol=1e-12)


def test_many_churned_steps_keep_the_variance():
    errors = []
    for steps in (100, 200, 400):
        sigmas = samplers.karras(steps + 1, 0.05, 5.0, final_zero=False)
        table = edm_churn(20.0, 0.0, 50.0, 1.0).tables(sigmas)
        variance = SPREAD**2 + sigmas[0] ** 2
        for a, b, noise in zip(table.sigma, sigmas[1:], table.noise, strict=True):
            slope_a, slope_b = (1 - share(a)) / a, (1 - share(b)) / b
            gain = 1 + (b - a) * (slope_a + slope_b * (1 + (b - a) * slope_a)) / 2
            variance = gain**2 * (variance + noise**2)
        errors.append(abs(variance - SPREAD**2 - 0.05**2))
    # Heun's second order, whatever the noise.
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.2)
    assert errors[-1] < 2e-4


def test_a_denoiser_that_knows_the_answer_is_followed_to_it():
    ends_in_the_answer(edm_churn(40, 0.0, 50.0))


def test_a_step_to_zero_returns_the_prediction_at_the_level_raised_to(x64):
    # As the algorithm has it: what is added is in the prediction, and nothing after it.
    noise = jnp.ones((2, 3))
    end = run(edm_churn(0.1, 0.0, 50.0), lambda x, s, c: 0 * x + s, np.array([2.0, 0.0]), noise)
    np.testing.assert_allclose(end, 2.2, rtol=1e-12)


def test_the_plan_counts_what_runs():
    assert counts(edm_churn(), np.append(SIGMAS, 0.0)) == 11


def test_added_noise_belongs_to_the_sample():
    belongs_to_the_sample(edm_churn(40, 0.0, 50.0))


def test_a_new_number_compiles_nothing(compilations):
    solvers = [edm_churn(1.0), edm_churn(0.0), edm_churn(2.0), edm_churn(2.0, 1.0, 3.0, 1.1)]
    compiles_nothing(solvers, compilations)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(s_churn=-1.0), "s_churn >= 0"),
        (dict(s_noise=-1.0), "s_noise >= 0"),
        (dict(s_churn=float("nan")), "plain finite number"),
        (dict(s_churn="much"), "plain finite number"),
        (dict(s_tmin=2.0, s_tmax=1.0), "s_tmin <= s_tmax"),
        (dict(s_tmax=float("nan")), "s_tmin <= s_tmax"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        edm_churn(**arguments)
