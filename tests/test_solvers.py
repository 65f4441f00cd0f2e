"""Properties that every solver keeps: order of convergence, closed forms, golden runs, counts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SPREAD, keys

from guidestar import guidance, samplers
from guidestar.models.mixture import GaussianMixture
from guidestar.samplers.schedules import checked

GOLDEN = Path(__file__).parent / "golden" / "samplers_gmm.npz"
# name -> (solver, evaluations on n steps that end in 0)
SOLVERS = {
    "euler": (samplers.euler(), lambda n: n),
    "heun": (samplers.heun(), lambda n: 2 * n - 1),
    "dpmpp": (samplers.dpmpp(), lambda n: n),
    "dpmpp_2s": (samplers.dpmpp_2s_ancestral(eta=0), lambda n: 2 * n - 1),
    "euler_ancestral": (samplers.euler_ancestral(), lambda n: n),
    "dpmpp_2s_ancestral": (samplers.dpmpp_2s_ancestral(), lambda n: 2 * n - 1),
}
ANCESTRAL = {
    "euler_ancestral": samplers.euler_ancestral,
    "dpmpp_2s_ancestral": samplers.dpmpp_2s_ancestral,
}


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


@pytest.mark.parametrize("name", sorted(SOLVERS.keys() - ANCESTRAL.keys()))
def test_error_falls_with_the_stated_order(name, x64):
    solver, _ = SOLVERS[name]
    mixture = line_mixture()
    noise = jnp.array([[-1.2], [-0.3], [0.4], [1.5]])
    truth = exact_end(mixture, 5.0 * noise, 5.0, 0.05)
    counts = np.array([40, 80, 160, 320])
    errors = []
    for count in counts:
        sigmas = samplers.karras(int(count) + 1, 0.05, 5.0, final_zero=False)
        end = run(solver, lambda x, s, c: mixture.denoise(x, s), sigmas, noise)
        errors.append(np.abs(end - truth).max())
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - solver.order) < 0.2, (slope, errors)


def test_euler_on_gaussian_data_is_a_product_of_cosines(x64):
    # Golden ratios of numerical to exact standard deviation, at three schedules' tangent angles.
    for steps, ratio in ((10, 0.752777), (20, 0.867560)):
        # `steps` steps, so one more node.
        sigmas = samplers.karras(steps + 1, 0.002, 80.0, final_zero=False)
        end = run(
            samplers.euler(),
            lambda x, s, c: x * SPREAD**2 / (SPREAD**2 + s**2),
            sigmas,
            jnp.ones((1, 1)),
        )
        exact = 80.0 * np.sqrt((SPREAD**2 + 0.002**2) / (SPREAD**2 + 80.0**2))
        angles = np.arctan(sigmas / SPREAD)
        np.testing.assert_allclose(end[0, 0] / exact, np.prod(np.cos(np.diff(angles))), rtol=1e-10)
        np.testing.assert_allclose(end[0, 0] / exact, ratio, atol=2e-6)


def test_heun_on_gaussian_data_is_its_closed_form(x64):
    sigmas = samplers.karras(18)
    end = run(
        samplers.heun(),
        lambda x, s, c: x * SPREAD**2 / (SPREAD**2 + s**2),
        sigmas,
        jnp.ones((1, 1)),
    )
    factor = 80.0
    for a, b in zip(sigmas[:-2], sigmas[1:-1], strict=True):
        h, ka, kb = b - a, a / (SPREAD**2 + a**2), b / (SPREAD**2 + b**2)
        factor *= 1 + h * ka / 2 + h * kb * (1 + h * ka) / 2
    factor *= SPREAD**2 / (SPREAD**2 + sigmas[-2] ** 2)
    np.testing.assert_allclose(end[0, 0], factor, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("heun", "edm_heun"),
        ("euler", "kdiffusion/euler"),
        ("heun", "kdiffusion/heun"),
        ("euler", "diffsampler/euler"),
        ("heun", "diffsampler/heun"),
        ("dpmpp", "kdiffusion/dpmpp_2m"),
        ("dpmpp_2s", "kdiffusion/dpmpp_2s_ancestral"),
    ],
)
def test_published_implementations_agree_in_float64(name, case, x64):
    golden = np.load(GOLDEN)
    mixture = GaussianMixture(golden["weights"], golden["means"], golden["covariances"])
    probe = mixture.denoise(golden["denoised_probe_x"], golden["denoised_probe_sigma"])
    np.testing.assert_allclose(probe, golden["denoised_probe"], atol=1e-12)
    sigmas = golden["sigmas" if case.startswith("diffsampler") else "sigmas_with_zero"]
    end = run(SOLVERS[name][0], lambda x, s, c: mixture.denoise(x, s), sigmas, golden["z"])
    np.testing.assert_allclose(end, golden[f"out/{case}"], atol=1e-9)


def test_the_published_2m_above_zero_ends_in_a_step_of_euler(x64):
    # That implementation lowers the order of the last step, wherever it ends.
    golden = np.load(GOLDEN)
    mixture = GaussianMixture(golden["weights"], golden["means"], golden["covariances"])
    *sigmas, start, end = golden["sigmas"]
    x = run(samplers.dpmpp(), lambda x, s, c: mixture.denoise(x, s), [*sigmas, start], golden["z"])
    denoised = mixture.denoise(x, start)
    x = denoised + end / start * (x - denoised)
    np.testing.assert_allclose(x, golden["out/diffsampler/dpmpp_order2"], atol=1e-9)


def test_euler_ancestral_without_noise_is_euler(x64):
    noise = jnp.array([[-1.2], [-0.3], [0.4], [1.5]])
    mixture = line_mixture()
    ends = [
        run(solver, lambda x, s, c: mixture.denoise(x, s), samplers.karras(9), noise)
        for solver in (samplers.euler_ancestral(eta=0), samplers.euler())
    ]
    np.testing.assert_allclose(*ends, atol=1e-13)


@pytest.mark.parametrize("name", ANCESTRAL)
def test_ancestral_variance_on_gaussian_data_follows_the_posterior(name, x64):
    sigmas = samplers.karras(9, 0.05, 5.0, final_zero=False)
    noise = jax.random.normal(jax.random.key(0), (64, 4000))
    variance = sigmas[0] ** 2
    for a, b in zip(sigmas[:-1], sigmas[1:], strict=True):
        kept, share = (b / a) ** 2, SPREAD**2 / (SPREAD**2 + a**2)
        if name == "dpmpp_2s_ancestral":
            # At eta = 1 the second evaluation is at sigma' itself.
            share = SPREAD**2 / (SPREAD**2 + b**2) * (share + b / a * (1 - share))
        variance = (kept + (1 - kept) * share) ** 2 * variance + b**2 * (1 - kept)
    end = run(ANCESTRAL[name](), lambda x, s, c: x * SPREAD**2 / (SPREAD**2 + s**2), sigmas, noise)
    # 256 000 draws: a standard error of 0.3 %.
    np.testing.assert_allclose(np.var(end), variance, rtol=0.012)
    # Samples and coordinates are independent of each other.
    assert np.abs(np.corrcoef(end[:8]) - np.eye(8)).max() < 0.08


@pytest.mark.parametrize("name", ANCESTRAL)
def test_added_noise_belongs_to_the_sample(name):
    noise = jax.random.normal(jax.random.key(0), (5, 2))
    every = keys(5)

    def ends(chosen, solver):
        return samplers.sample(
            lambda x, s, c: x / (1 + s**2),
            guidance.unguided(),
            solver,
            samplers.karras(6),
            noise[chosen],
            None,
            every[chosen],
        )

    batch = ends(slice(None), ANCESTRAL[name]())
    np.testing.assert_allclose(ends(slice(3, 4), ANCESTRAL[name]())[0], batch[3], atol=1e-5)
    assert np.abs(batch - ends(slice(None), ANCESTRAL[name](eta=0.5))).max() > 0.1


@pytest.mark.parametrize("name", ANCESTRAL)
def test_a_new_eta_compiles_nothing(name, compilations):
    def denoise(x, sigma, condition):
        return x / (1 + sigma**2)

    sigmas, noise = samplers.karras(6), jnp.ones((2, 3))
    run(ANCESTRAL[name](0.5), denoise, sigmas, noise)
    with compilations() as compiled:
        run(ANCESTRAL[name](0.25), denoise, sigmas, noise)
    assert not compiled


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.euler_ancestral(eta=1.5), "0 <= eta <= 1"),
        (lambda: samplers.dpmpp_2s_ancestral(eta=float("nan")), "0 <= eta <= 1"),
        (lambda: jax.jit(lambda eta: samplers.euler_ancestral(eta).eta)(0.5), "plain number"),
        (lambda: samplers.dpmpp(order=1), "samplers.euler"),
        (lambda: samplers.dpmpp(difference="neither"), "mixed or consistent"),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_plan_counts_what_runs(name, steps):
    solver, expected = SOLVERS[name]
    sigmas = samplers.karras(steps) if steps > 1 else np.array([80.0, 0.0])
    plan = samplers.plan(solver, sigmas, guidance.unguided())
    calls = []

    def counted(x, sigma, condition):
        jax.debug.callback(lambda: calls.append(1))
        return x / (1 + sigma**2)

    jax.block_until_ready(run(solver, counted, sigmas, jnp.ones((2, 3))))
    jax.effects_barrier()
    assert len(calls) == plan.totals["main"] == expected(steps)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(name):
    answer = jnp.arange(6.0).reshape(2, 3)
    sigmas = samplers.karras(5)
    end = run(SOLVERS[name][0], lambda x, s, c: answer, sigmas, jnp.ones((2, 3)))
    np.testing.assert_array_equal(end, answer)


@pytest.mark.parametrize("name", SOLVERS)
def test_two_calls_agree_and_float64_is_kept(name, x64):
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
    sigmas = samplers.karras(6)
    ends = [run(SOLVERS[name][0], lambda x, s, c: x / (1 + s**2), sigmas, noise) for _ in range(2)]
    assert ends[0].dtype == jnp.float64
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_schedule_may_stop_above_zero(name):
    sigmas = samplers.karras(6, final_zero=False)
    noise = jnp.ones((2, 3))
    short = run(SOLVERS[name][0], lambda x, s, c: x / (1 + s**2), sigmas, noise)
    full, kept = run(
        SOLVERS[name][0], lambda x, s, c: x / (1 + s**2), samplers.karras(6), noise, save="x"
    )
    np.testing.assert_allclose(kept["x"][-1], short, atol=1e-6)
    assert full.shape == short.shape


def test_karras_is_the_published_grid():
    expected = [80, 57.585985, 40.785574, 28.374585, 19.352453, 12.910082, 8.400935, 5.315195]
    expected += [3.256822, 1.923340, 1.088171, 0.585348, 0.296442, 0.139516, 0.059947, 0.022935]
    expected += [0.007528, 0.002, 0]
    np.testing.assert_allclose(samplers.karras(18), expected, atol=6e-7)
    assert samplers.karras(18, final_zero=False)[-1] == pytest.approx(0.002)
    np.testing.assert_array_equal(samplers.karras(1), [80.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(steps=0), "positive integer"),
        (dict(steps=2.5), "positive integer"),
        (dict(steps=4, sigma_min=0.0), "0 < sigma_min"),
        (dict(steps=4, sigma_min=90.0), "0 < sigma_min"),
        (dict(steps=4, rho=0.0), "rho > 0"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        samplers.karras(**arguments)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0, 2.0], "must decrease"),
        ([2.0, 2.0, 0.0], "must decrease"),
        ([2.0, 0.0, 0.0], "must decrease"),
        ([2.0], "at least two"),
        ([2.0, float("nan")], "finite"),
        ([2.0, -1.0], "not negative"),
    ],
)
def test_sigmas_that_cannot_be_followed_are_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        checked(sigmas)


def test_traced_sigmas_are_refused():
    with pytest.raises(ValueError, match="known on the host"):
        jax.jit(lambda sigmas: checked(sigmas).sum())(jnp.array([2.0, 1.0]))
