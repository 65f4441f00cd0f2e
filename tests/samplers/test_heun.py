"""Heun's method and the rest of its family: order of convergence, closed form, golden runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD
from oracles.exact_starts import regressed
from oracles.multistep_runs import NOISE, contract, denoise_golden, denoise_line
from oracles.solver_runs import GOLDEN, run

from guidestar import guidance, samplers
from guidestar.samplers.solvers.deis import deis
from guidestar.samplers.solvers.heun import heun

ALPHAS = [0.5, 2 / 3, 1.0]


@jax.tree_util.Partial
def gaussian(x, sigma, condition):
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_error_falls_with_the_stated_order(alpha, x64):
    slope, errors = regressed(heun(alpha))
    assert abs(slope - heun(alpha).order) < 0.2, (slope, errors)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_on_gaussian_data_it_is_its_closed_form(alpha, x64):
    # The direction is k x with k = sigma / (c^2 + sigma^2).
    sigmas = samplers.karras(12)
    factor = sigmas[0]
    for a, b in zip(sigmas[:-2], sigmas[1:-1], strict=True):
        h = b - a
        k, k_inside = (s / (SPREAD**2 + s**2) for s in (a, a + alpha * h))
        second = k_inside * (1 + alpha * h * k)
        factor *= 1 + h * (k + (second - k) / (2 * alpha))
    # The step to 0 is the prediction.
    factor *= SPREAD**2 / (SPREAD**2 + sigmas[-2] ** 2)
    end = run(heun(alpha), gaussian, sigmas, jnp.ones((1, 1)))
    np.testing.assert_allclose(end[0, 0], factor, rtol=1e-12)


@pytest.mark.parametrize("case", ["diffsampler/heun", "edm_heun", "kdiffusion/heun"])
def test_published_implementations_agree_in_float64(case, x64):
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas" if case.startswith("diffsampler") else "sigmas_with_zero"]
    end = run(heun(), denoise_golden, sigmas, golden["z"])
    np.testing.assert_allclose(end, golden[f"out/{case}"], atol=1e-9, rtol=0)


def test_the_second_evaluation_is_where_alpha_says():
    levels = []

    def denoise(x, sigma, condition):
        jax.debug.callback(lambda s: levels.append(float(s)), sigma, ordered=True)
        return x / 2

    for alpha in (1.0, 0.25):
        levels.clear()
        jax.block_until_ready(
            run(heun(alpha), denoise, np.array([80.0, 0.3, 0.0]), jnp.ones((1, 1)))
        )
        jax.effects_barrier()
        inside = 80.0 + alpha * (0.3 - 80.0)
        np.testing.assert_allclose(levels, [80.0, inside, 0.3], rtol=1e-6)
        # The end of a step is met to the bit.
        assert alpha < 1 or levels[1] == levels[2]


def test_alpha_one_is_the_runge_kutta_method_of_its_name(x64):
    sigmas = samplers.karras(8)
    ends = [run(s, denoise_line, sigmas, NOISE) for s in (heun(), deis(2, "rhork"))]
    np.testing.assert_allclose(*ends, atol=1e-13)


def test_a_new_alpha_compiles_nothing(compilations):
    noise, sigmas = jnp.ones((2, 3)), samplers.karras(6)
    first = run(heun(), contract, sigmas, noise)
    with compilations() as compiled:
        second = run(heun(0.5), contract, samplers.karras(6, rho=5.0), noise)
    assert not compiled
    assert np.abs(first - second).max() > 0


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("final_zero", [True, False])
def test_a_prediction_that_does_not_change_is_followed_exactly(alpha, final_zero):
    answer, noise = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))
    sigmas = samplers.karras(6, final_zero=final_zero)
    end = run(heun(alpha), lambda x, s, c: answer, sigmas, noise)
    if final_zero:
        np.testing.assert_array_equal(end, answer)
    else:
        expected = answer + sigmas[-1] / sigmas[0] * (sigmas[0] * noise - answer)
        np.testing.assert_allclose(end, expected, atol=1e-4)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_plan_counts_two_evaluations_a_step_and_one_to_zero(alpha):
    plan = samplers.plan(heun(alpha), samplers.karras(6), guidance.unguided())
    assert plan.totals["main"] == 11


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (0.0, "0 < alpha <= 1"),
        (-1.0, "0 < alpha <= 1"),
        (1.5, "0 < alpha <= 1"),
        (float("nan"), "plain finite number"),
        ("1/2", "plain finite number"),
        (np.array([0.5, 1.0]), "plain finite number"),
    ],
)
def test_an_alpha_outside_the_step_is_refused(alpha, message):
    with pytest.raises(ValueError, match=f"samplers.heun: .*{message}"):
        heun(alpha)


@pytest.mark.untyped
def test_a_traced_alpha_is_refused():
    with pytest.raises(ValueError, match="plain finite number"):
        jax.jit(lambda alpha: heun(alpha).alpha)(0.5)
