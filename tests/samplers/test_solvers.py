"""Properties that every solver keeps: order of convergence, closed forms, golden runs, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD
from oracles.solver_runs import GOLDEN, exact_end, line_mixture, run
from tables.everyday import few, rows
from tables.solver_table import SHAPE, SOLVERS, STEPS

from guidestar import guidance, samplers
from guidestar.models.exact.mixture import GaussianMixture
from guidestar.samplers.checks import checked


def test_the_flow_that_solvers_are_held_to_is_the_known_one(x64):
    # Golden ends of RK4 in log sigma with steps so fine that halving them changes nothing.
    start = jnp.array([[3.0], [-1.2], [0.4], [1.7]])
    golden = [0.87994745983, 0.33418396328, 0.58991826843, 0.74408720934]
    end = exact_end(line_mixture(), start, 5.0, 0.05)
    np.testing.assert_allclose(end[:, 0], golden, atol=1e-10)


def test_error_of_euler_falls_with_order_one(x64):
    solver = samplers.euler()
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


@pytest.mark.parametrize("case", ["kdiffusion/euler", "diffsampler/euler"])
def test_published_implementations_agree_in_float64(case, x64):
    golden = np.load(GOLDEN)
    mixture = GaussianMixture(golden["weights"], golden["means"], golden["covariances"])
    probe = mixture.denoise(golden["denoised_probe_x"], golden["denoised_probe_sigma"])
    np.testing.assert_allclose(probe, golden["denoised_probe"], atol=1e-12)
    sigmas = golden["sigmas" if case.startswith("diffsampler") else "sigmas_with_zero"]
    end = run(samplers.euler(), lambda x, s, c: mixture.denoise(x, s), sigmas, golden["z"])
    np.testing.assert_allclose(end, golden[f"out/{case}"], atol=1e-9)


@jax.tree_util.Partial
def contract(x, sigma, condition, to=None):
    """Denoise unit Gaussian data, or map it along its flow."""
    return x / (1 + sigma**2)


@pytest.mark.parametrize(
    ("name", "steps"),
    rows(
        [(name, n) for name, entry in SOLVERS.items() for n in entry.counts()],
        lambda name, steps: steps == SOLVERS[name].counts()[-1],
    ),
)
def test_the_plan_counts_what_runs(name, steps):
    entry = SOLVERS[name]
    sigmas = samplers.karras(steps, 0.1, 2.5) if steps > 1 else np.array([80.0, 0.0])
    plan = samplers.plan(entry.solver, sigmas, guidance.unguided(), SHAPE)
    calls = []

    def counted(x, sigma, condition, to=None):
        jax.debug.callback(lambda: calls.append(1))
        return contract(x, sigma, condition, to)

    jax.block_until_ready(run(entry.solver, counted, sigmas, jnp.ones((2, *SHAPE))))
    jax.effects_barrier()
    assert len(calls) == plan.totals["main"] == entry.evaluations(steps)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(name):
    answer = jnp.arange(32.0).reshape(2, *SHAPE)
    sigmas = samplers.karras(STEPS)
    end = run(SOLVERS[name].solver, lambda x, s, c, to=None: answer, sigmas, jnp.ones_like(answer))
    np.testing.assert_array_equal(end, answer)


@pytest.mark.parametrize("name", SOLVERS)
def test_two_calls_agree_and_float64_is_kept(name, x64):
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(4, *SHAPE)))
    sigmas = samplers.karras(STEPS)
    solver = SOLVERS[name].solver
    ends = [run(solver, contract, sigmas, noise) for _ in range(2)]
    assert ends[0].dtype == jnp.float64
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("name", few(8, SOLVERS))
def test_a_schedule_may_stop_above_zero(name):
    entry = SOLVERS[name]
    noise = jnp.ones((2, *SHAPE))
    # As many steps for both: one solver may be made for that number.
    above = samplers.karras(STEPS + 1, 0.05, 5.0, final_zero=False)
    end = run(entry.solver, contract, above, noise)
    assert np.isfinite(end).all()
    assert np.abs(end).max() < (4.5 if entry.random else 2.0)
    if entry.steps or entry.random:
        return
    # The step to 0 is the only one that is another.
    full, kept = run(entry.solver, contract, np.append(above, 0.0), noise, save="x")
    np.testing.assert_allclose(kept["x"][-1], end, atol=1e-6)
    assert full.shape == end.shape


@pytest.mark.parametrize("name", SOLVERS)
def test_another_schedule_of_one_length_compiles_nothing(name, compilations):
    solver, noise = SOLVERS[name].solver, jnp.ones((2, *SHAPE))
    run(solver, contract, samplers.karras(STEPS), noise)
    other = samplers.karras(STEPS, rho=5.0)
    with compilations() as compiled:
        run(solver, contract, other, noise)
    assert not compiled


def test_karras_is_the_published_grid():
    expected = [80, 57.585985, 40.785574, 28.374585, 19.352453, 12.910082, 8.400935, 5.315195]
    expected += [3.256822, 1.923340, 1.088171, 0.585348, 0.296442, 0.139516, 0.059947, 0.022935]
    expected += [0.007528, 0.002, 0]
    np.testing.assert_allclose(samplers.karras(18), expected, atol=6e-7)
    assert samplers.karras(18, final_zero=False)[-1] == pytest.approx(0.002)
    np.testing.assert_array_equal(samplers.karras(1), [80.0, 0.0])


@pytest.mark.untyped
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


@pytest.mark.parametrize(
    ("solver", "shown"),
    [
        (samplers.dpmpp(), "dpmpp(order=2)"),
        (samplers.dpmpp(3, singlestep=True), "dpmpp(order=3, singlestep=True)"),
        (samplers.unipc(3, "bh1"), "unipc(order=3, variant='bh1')"),
        (samplers.deis(), "deis(order=4)"),
        (samplers.lms(2), "lms(order=2)"),
        (samplers.euler(), "euler()"),
        (samplers.edm_churn(30.0), "edm_churn(30.0)"),
        (samplers.per_step([("data", 2)]), "per_step([('data', 2)])"),
    ],
)
def test_a_solver_is_shown_as_the_call_that_makes_it(solver, shown):
    assert repr(solver) == shown


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_is_shown_in_a_line(name):
    text = repr(SOLVERS[name].solver)
    assert len(text) < 200 and "\n" not in text and "array(" not in text
    made = SOLVERS[name].solver
    known = getattr(made, "_origin", None)
    assert known and ("order=" in text) == ("order" in known.constructor.parameters)
