"""EVODiff against its equations written out, its first order, and where projections have no say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, gaussian, keys
from oracles.exact_starts import regressed
from oracles.multistep_runs import contract, denoise_golden, denoise_line
from oracles.solver_runs import GOLDEN, run
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.samplers.solvers.evodiff import evodiff

FINAL_STEPS = ("ddim", "released")


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def projection(a, b):
    inner, norm = (a * b).sum(1, keepdims=True), (b * b).sum(1, keepdims=True)
    return np.clip(inner / norm, -2, 2)


def by_hand(denoise, sigmas, noise, final_step):
    """Follow the published steps, each with its evaluation at the end, on ``[batch, d]``."""
    steps, lowest, highest = len(sigmas) - 1, sigmas[-1], sigmas[0]
    x = highest * noise
    before, denoised = None, np.asarray(denoise(x, highest, None))
    for n in range(steps):
        sigma, to = sigmas[n], sigmas[n + 1]
        eta = 1 / to - 1 / sigma
        ddim = to / sigma * x + to * eta * denoised
        if n == 0:
            x, before, denoised = ddim, denoised, np.asarray(denoise(ddim, to, None))
            continue
        ratio = to / sigma
        if n == steps - 1:
            if final_step == "ddim":
                return ddim
            share = 1 - 0.5 * np.sqrt(ratio if ratio < 0.5 else ratio - 0.5)
            gain = 1 - np.sqrt(to * sigma)
            return gain * ddim + 0.5 * to * eta * (denoised - share * before)
        rho = np.log(sigmas[n - 1] / sigma) / np.log(sigma / to)
        weight = 0.5 * (1 - ((to + lowest) / (highest + lowest)) ** 2)
        beta = np.sqrt(ratio / (sigma / sigmas[n - 1]))
        r1 = (1 - weight) * beta + weight * projection(denoised, before)
        first = denoised - r1 * before
        reach = np.clip(sigmoid(0.25 * np.abs(r1)) * rho, 0.25 * rho, 1.5 * rho)
        probe = ddim + 0.5 * to * eta * first / reach
        after = np.asarray(denoise(probe, to, None))
        r2 = (1 - weight) * beta + weight * projection(after, denoised)
        second = after - r2 * denoised
        back, forth = first / (rho * eta), rho * second / eta
        mix = 0.5 * sigmoid(np.abs(0.5 * projection(forth + back, forth - back)))
        theta = -mix / rho * first + rho * (1 - mix) * second
        missed = probe - ddim - 0.5 * to * eta * theta / reach
        excess = np.abs(projection(missed, first) / (eta * to)) - 0.5
        if steps > 20:
            steady = projection(denoised, (denoised - before) / eta) * (2 - ratio**2)
            excess = -excess * sigmoid(steady)
        x = ddim + 0.5 * to * eta * theta / sigmoid(excess)
        before, denoised = denoised, after


@pytest.mark.parametrize("final_step", few(3, FINAL_STEPS))
@pytest.mark.parametrize("steps", [2, 3, 10, 20, 21, 30])
def test_steps_are_the_published_ones(steps, final_step, x64):
    golden = np.load(GOLDEN)
    for make in (samplers.karras, samplers.log_snr):
        sigmas = make(steps + 1, 0.02, 20.0, final_zero=False)
        end = run(evodiff(final_step), denoise_golden, sigmas, golden["z"])
        expected = by_hand(denoise_golden, sigmas, golden["z"], final_step)
        np.testing.assert_allclose(end, expected, atol=1e-11)


def test_projections_are_taken_in_each_channel(x64):
    sigmas = samplers.karras(7, 0.02, 20.0, final_zero=False)
    noise = np.random.default_rng(0).normal(size=(2, 4, 3, 2))
    image = run(evodiff(), denoise_line_everywhere, sigmas, noise)
    for channel in range(2):
        places = noise[..., channel].reshape(2, -1)
        alone = by_hand(denoise_line_everywhere, sigmas, places, "ddim")
        np.testing.assert_allclose(image[..., channel].reshape(2, -1), alone, atol=1e-11)


@jax.tree_util.Partial
def denoise_line_everywhere(x, sigma, condition):
    return denoise_line(jnp.asarray(x).reshape(-1, 1), sigma, condition).reshape(x.shape)


@pytest.mark.parametrize("final_zero", [False, True])
def test_a_constant_prediction_on_even_steps_of_log_sigma_is_ddims(final_zero, x64):
    answer = jnp.arange(1.0, 7.0).reshape(2, 3)
    sigmas = samplers.log_snr(9, final_zero=final_zero)
    ends = [
        run(solver, lambda x, s, c: answer, sigmas, jnp.ones((2, 3)), save="x")
        for solver in (evodiff(), samplers.euler())
    ]
    np.testing.assert_allclose(ends[0][1]["x"], ends[1][1]["x"], rtol=1e-12)
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-12)


def test_a_constant_prediction_on_other_steps_is_not_followed_exactly(x64):
    # r is a mean of 1 and of the square root of a ratio of steps: a property of the method.
    sigmas = samplers.karras(9, final_zero=False)
    end = run(evodiff(), lambda x, s, c: jnp.ones_like(x), sigmas, jnp.zeros((1, 2)))
    exact = 1 - sigmas[-1] / sigmas[0]
    assert 1e-5 < np.abs(end - exact).max() < 1e-1


@pytest.mark.parametrize("final_step", few(3, FINAL_STEPS))
@pytest.mark.parametrize("steps", few(1, [3, 1, 25]))
@pytest.mark.parametrize(
    "denoise",
    [
        lambda x, s, c: jnp.zeros_like(x),
        lambda x, s, c: jnp.ones_like(x),
        lambda x, s, c: x,
        contract,
    ],
    ids=["zero", "one", "itself", "contraction"],
)
def test_degenerate_data_stay_finite(denoise, steps, final_step):
    for noise in (jnp.zeros((2, 2, 2, 1)), jnp.ones((2, 3)), 1e-30 * jnp.ones((2, 3))):
        for sigmas in (samplers.karras(steps), samplers.karras(steps + 1, final_zero=False)):
            assert np.isfinite(run(evodiff(final_step), denoise, sigmas, noise)).all()


@pytest.mark.longer
def test_error_falls_with_first_order(x64):
    # Not the claimed second: errors halve.
    solver = evodiff()
    assert solver.order == 1
    slope, errors = regressed(solver, counts=(160, 320, 640, 1280))
    assert abs(slope - 1) < 0.2, (slope, errors)


@pytest.mark.longer
def test_few_steps_are_better_than_ddims_and_many_worse_than_second_order(x64):
    golden = np.load(GOLDEN)

    def error(solver, steps):
        sigmas = samplers.karras(steps + 1, 0.02, 20.0, final_zero=False)
        end = run(solver, denoise_golden, sigmas, golden["z"])
        return np.sqrt(np.mean((end - golden["out/reference_ode_sigma_min"]) ** 2))

    for steps in (5, 10, 20):
        assert error(evodiff(), steps) < 0.7 * error(samplers.euler(), steps)
    assert error(evodiff(), 80) > 3 * error(samplers.dpmpp(), 80)


@pytest.mark.parametrize("final_step", FINAL_STEPS)
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(final_step):
    answer = jnp.arange(6.0).reshape(2, 3)
    for sigmas in (samplers.karras(6), samplers.karras(2), np.array([80.0, 0.0])):
        end = run(evodiff(final_step), lambda x, s, c: answer, sigmas, jnp.ones((2, 3)))
        np.testing.assert_array_equal(end, answer)


@pytest.mark.parametrize("final_step", FINAL_STEPS)
def test_a_schedule_may_stop_above_zero(final_step):
    noise = jnp.linspace(-1, 1, 6).reshape(2, 3)
    short = run(evodiff(final_step), contract, samplers.karras(6, final_zero=False), noise)
    _, kept = run(evodiff(final_step), contract, samplers.karras(6), noise, save="x")
    np.testing.assert_allclose(kept["x"][-1], short, atol=1e-6)


def test_the_released_final_step_multiplies_predictions():
    # The gain that its authors did not mean: a constant prediction is overshot.
    sigmas = samplers.log_snr(6, final_zero=False)
    ends = [
        run(evodiff(name), lambda x, s, c: jnp.ones_like(x), sigmas, jnp.zeros((1, 3)))
        for name in FINAL_STEPS
    ]
    np.testing.assert_allclose(ends[0], 1, atol=1e-3)
    ratio = sigmas[-1] / sigmas[-2]
    gain = 1 - np.sqrt(sigmas[-1] * sigmas[-2]) + (1 - ratio) * np.sqrt(ratio) / 4
    np.testing.assert_allclose(ends[1], gain, atol=1e-3)
    assert gain > 1.05


@pytest.mark.parametrize("steps", [1, 2, 7, 25])
def test_the_plan_counts_what_runs(steps):
    sigmas, calls = samplers.karras(steps), []

    def counted(x, sigma, condition):
        jax.debug.callback(lambda: calls.append(1))
        return contract(x, sigma, condition)

    jax.block_until_ready(run(evodiff(), counted, sigmas, jnp.ones((2, 3))))
    jax.effects_barrier()
    plan = samplers.plan(evodiff(), sigmas, guidance.cfg(2.0))
    assert 2 * len(calls) == plan.totals["main"] == 2 * steps


def test_samples_do_not_depend_on_their_batch():
    noise, every = jax.random.normal(jax.random.key(0), (5, 4, 4, 2)), keys(5)

    def ends(chosen):
        rule, sigmas = guidance.unguided(), samplers.karras(6)
        return samplers.sample(
            contract, rule, evodiff(), sigmas, noise[chosen], None, every[chosen]
        )

    np.testing.assert_allclose(ends(slice(3, 4))[0], ends(slice(None))[3], atol=1e-5)


def test_a_new_schedule_compiles_nothing(compilations):
    noise = jnp.linspace(-1, 1, 6).reshape(2, 3)
    first = run(evodiff(), contract, samplers.karras(6), noise)
    with compilations() as compiled:
        second = run(evodiff(), contract, samplers.karras(6, rho=5.0), noise)
    assert not compiled
    assert np.abs(first - second).max() > 0


def test_float64_is_kept(x64):
    end = run(evodiff(), contract, samplers.karras(6), np.ones((2, 3)))
    assert end.dtype == jnp.float64


@pytest.mark.longer
def test_rules_guide_and_renoising_ones_are_refused():
    def end(rule):
        return samplers.sample(
            Labelled(gaussian),
            rule,
            evodiff(),
            samplers.karras(6),
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            jax.random.key(0),
        )

    ends = [end(guidance.cfg(scale)).mean() for scale in (0.0, 1.0, 2.0)]
    assert ends[0] > ends[1] + 0.1 > ends[2] + 0.2
    with pytest.raises(ValueError, match="CFG\\+\\+"):
        end(guidance.cfgpp(0.5))


def test_final_steps_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="ddim or released, got 'euler'"):
        evodiff("euler")
