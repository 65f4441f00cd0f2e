"""DPM-Solver-v3: what its statistics make exact, orders of convergence, refusals."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, gaussian, keys
from oracles.denoiser_statistics import waves
from oracles.exact_starts import regressed
from oracles.multistep_runs import NOISE, contract, denoise_golden, denoise_line, finely, plainly
from oracles.solver_runs import GOLDEN, line_mixture, run
from scipy.interpolate import CubicSpline
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.guidance.protocol import Guided
from guidestar.models.exact.mixture import GaussianMixture
from guidestar.samplers.solvers.dpm_solver_v3 import basis, dpm_solver_v3
from guidestar.samplers.solvers.exponential import integrals
from guidestar.samplers.solvers.solver import Interval
from guidestar.samplers.solvers.statistics import Statistics, degenerate, grid
from guidestar.samplers.tuning.calibration import calibrate

# name -> options
VARIANTS = {
    "first": dict(order=1),
    "second": dict(order=2, corrector=False),
    "second_corrected": dict(order=2),
    "third": dict(order=3, corrector=False),
    "third_corrected": dict(order=3),
    "third_pseudo": dict(order=3, pseudo=True),
    "third_lower_final": dict(order=3, lower_order_final=True),
}
# A wavy schedule: steps of unequal ratios.
UNEVEN = np.array([20.0, 9.0, 6.0, 2.0, 1.1, 0.3, 0.2, 0.05])


@cache
def calibrated(name):
    """Return statistics of a mixture's exact denoiser, in float64."""
    with jax.enable_x64(True):
        if name == "line":
            mixture, denoise, (low, high) = line_mixture(), denoise_line, (0.05, 5.0)
        else:
            golden = np.load(GOLDEN)
            mixture = GaussianMixture(golden["weights"], golden["means"], golden["covariances"])
            denoise, (low, high) = denoise_golden, (0.02, 20.0)
        return calibrate(
            denoise,
            guidance.unguided(),
            mixture.sample(jax.random.key(1), 512),
            None,
            jax.random.key(0),
            sigma_min=low,
            sigma_max=high,
            intervals=60,
            samples=512,
            batch=512,
        )


@pytest.mark.longer
def test_gaussian_data_are_followed_exactly_in_any_number_of_steps(x64):
    spread, mean, sigmas = 0.5, 0.7, samplers.log_snr(6, final_zero=False)
    first = mean + 1.3 * 80
    truth = mean + np.sqrt((spread**2 + 0.002**2) / (spread**2 + 80**2)) * (first - mean)

    def error(solver):
        def denoise(x, sigma, condition):
            return mean + (x - mean) * spread**2 / (spread**2 + sigma**2)

        return np.abs(run(solver, denoise, sigmas, np.full((1, 1), first / 80)) - truth).max()

    np.testing.assert_allclose(error(samplers.euler()), 0.279, atol=5e-4)
    # Trapezoids on the same grids leave 3.8e-5, 3.8e-7 and 3.8e-9.
    for intervals, most in ((120, 2e-7), (1200, 2e-11), (12000, 1e-12)):
        lambdas = grid(0.002, 80.0, intervals)
        l = 1 / (1 + (spread * np.exp(lambdas)) ** 2)
        statistics = Statistics(l, 0 * l, 2 * l * (1 - l) * mean, lambdas)
        for name, options in VARIANTS.items():
            assert error(dpm_solver_v3(statistics, **options)) < most, name


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_degenerate_order_one_is_ddim(prediction, x64):
    for sigmas in (UNEVEN, samplers.karras(7)):
        solver = dpm_solver_v3(degenerate(prediction=prediction), 1)
        ends = [run(s, denoise_line, sigmas, NOISE) for s in (solver, samplers.euler())]
        np.testing.assert_allclose(*ends, atol=1e-12)


def polynomial_weights(prediction, start, end, sigmas_of_nodes):
    """Return the weights of the predictions at some noise levels in a step between two others."""
    nodes = np.log(start / np.asarray(sigmas_of_nodes))
    if prediction == "data":
        return integrals(np.log(start / end), nodes)
    points, shares = np.polynomial.legendre.leggauss(60)
    sigma = (start + end) / 2 + (end - start) / 2 * points
    powers = np.log(start / sigma) ** np.arange(len(nodes))[:, None]
    moments = (end - start) / 2 * powers @ shares
    return np.linalg.solve(nodes ** np.arange(len(nodes))[:, None], moments)


def by_hand(prediction, order, corrector, sigmas, noise):
    """Follow the line mixture with polynomials in log sigma through predictions."""
    x, values = sigmas[0] * noise, []
    predicted = from_here = None
    for i in range(len(sigmas) - 1):
        denoised = denoise_line(x, sigmas[i], None)
        values.insert(0, denoised if prediction == "data" else (x - denoised) / sigmas[i])

        def led(base, i, weights, used):
            keep = sigmas[i + 1] / sigmas[i] if prediction == "data" else 1.0
            return keep * base + sum(w * v for w, v in zip(weights, used, strict=True))

        before = min(i, order)
        if corrector and before > 1:
            # The nodes of the step here, without the oldest, with this one.
            nodes = sigmas[i - before + 1 : i + 1][::-1]
            weights = polynomial_weights(prediction, sigmas[i - 1], sigmas[i], nodes)
            x = led(from_here, i - 1, weights, values[:before])
        count = min(i + 1, order)
        nodes = sigmas[i - count + 1 : i + 1][::-1]
        weights = polynomial_weights(prediction, sigmas[i], sigmas[i + 1], nodes)
        from_here, predicted = x, led(x, i, weights, values[:count])
        x = predicted
    return predicted


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_degenerate_statistics_are_exact_for_polynomials_in_log_sigma(
    prediction, order, corrector, x64
):
    solver = dpm_solver_v3(degenerate(prediction=prediction), order, corrector=corrector)
    end = run(solver, denoise_line, UNEVEN, NOISE)
    expected = by_hand(prediction, order, corrector, UNEVEN, NOISE)
    np.testing.assert_allclose(end, expected, atol=1e-12)


def test_degenerate_order_two_is_the_taylor_variant_of_2m(x64):
    x, before = UNEVEN[0] * NOISE, None
    h = np.log(UNEVEN[:-1] / UNEVEN[1:])
    for i, sigma in enumerate(UNEVEN[:-1]):
        denoised = denoise_line(x, sigma, None)
        phi1 = np.expm1(-h[i])
        x = np.exp(-h[i]) * x - phi1 * denoised
        if before is not None:
            x = x + (phi1 / h[i] + 1) * (denoised - before) * h[i] / h[i - 1]
        before = denoised
    end = run(dpm_solver_v3(degenerate(), 2, corrector=False), denoise_line, UNEVEN, NOISE)
    np.testing.assert_allclose(end, x, atol=1e-12)


def test_pseudo_derivatives_take_the_fewest_predictions(x64):
    x, past = UNEVEN[0] * NOISE, []
    h = np.log(UNEVEN[:-1] / UNEVEN[1:])
    for i, sigma in enumerate(UNEVEN[:-1]):
        past.insert(0, denoise_line(x, sigma, None))
        phi1 = np.expm1(-h[i])
        phi2 = phi1 / h[i] + 1
        x = np.exp(-h[i]) * x - phi1 * past[0]
        if i > 0:
            first = (past[0] - past[1]) / h[i - 1]
            x = x + phi2 * h[i] * first
        if i > 1:
            second = (first - (past[1] - past[2]) / h[i - 2]) / (h[i - 1] + h[i - 2])
            x = x - (phi2 / h[i] - 0.5) * h[i] ** 2 * 2 * second
    solver = dpm_solver_v3(degenerate(), 3, corrector=False, pseudo=True)
    np.testing.assert_allclose(run(solver, denoise_line, UNEVEN, NOISE), x, atol=1e-12)
    assert solver.order == 2


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_what_the_statistics_describe_is_integrated_exactly(name, x64):
    # Whatever l, s and b are: f = e^S (a polynomial + int e^-S b) for D = (1 - l) x - f.
    statistics, noise = waves(), np.ones((1, 3))
    l, b, integral_l, integral_s = statistics.curves
    fine = np.linspace(-np.log(80), -np.log(0.002), 20001)
    at = {s: int(np.argmin(np.abs(fine + np.log(s)))) for s in samplers.log_snr(9)[:-1]}
    sigmas = np.exp(-fine[list(at.values())])

    def summed(values):
        # Simpson's rule between every two.
        pieces = (values[:-2:2] + 4 * values[1:-1:2] + values[2::2]) * (fine[1] - fine[0]) / 3
        return np.concatenate([np.zeros((1, 3)), np.cumsum(pieces, axis=0)])

    driven = CubicSpline(fine[::2], summed(np.exp(-integral_s(fine)) * b(fine)))
    degree = dict(VARIANTS[name])["order"] - 1
    if "pseudo" in name or "lower" in name:
        degree = 0

    def f_of(lambdas):
        powers = 1 + 0.3 * (lambdas[:, None] / 3 + 1) ** degree
        return np.exp(integral_s(lambdas)) * (powers + driven(lambdas))

    table = jnp.asarray(np.stack([1 - l(-np.log(sigmas)), f_of(-np.log(sigmas))]))

    def denoise(x, sigma, condition):
        rest, f = table[:, jnp.argmin(jnp.abs(jnp.asarray(sigmas) - sigma))]
        return rest * x - f

    solver = dpm_solver_v3(statistics, **VARIANTS[name])
    end, kept = run(solver, denoise, sigmas, noise, save="x")
    states = np.concatenate([kept["x"][:, 0], end])
    grown = summed(np.exp(integral_l(fine)) * f_of(fine))[np.array(list(at.values())) // 2]
    expected = -np.diff(grown, axis=0)
    found = np.diff(np.exp(integral_l(-np.log(sigmas))) * states, axis=0)
    # The first steps are of lower orders, and so is their correction; what they miss stays in x,
    # not in what is added to it.
    np.testing.assert_allclose(found[degree + 1 :], expected[degree + 1 :], rtol=1e-9)
    if not degree:
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)


def from_exact_states(solver, sigmas):
    """Return the end of a run whose states up to the first full step are the flow's own."""
    past = solver.past
    table = solver.tables(sigmas)
    states = finely(sigmas[: past + 1])
    known = [
        rest * x - denoise_line(x, sigma, None)
        for rest, x, sigma in zip(table.rest, states, sigmas, strict=False)
    ]
    rows = jax.tree.map(lambda values: values[past:], table)
    steps = Interval(sigmas[past:-1], sigmas[past + 1 :], rows)

    @jax.jit
    def follow(carry, steps):
        def step(carry, interval):
            x, _, state = solver.step(
                lambda x, sigma: Guided(denoise_line(x, sigma, None)),
                carry[0],
                interval,
                carry[1],
                0,
            )
            return (x, state), None

        return jax.lax.scan(step, carry, steps)[0][0]

    return follow((states[-1], tuple(known[past - 1 :: -1][:past])), steps)


@pytest.mark.longer
@pytest.mark.parametrize(
    ("known", "name", "end", "order"),
    few(
        2,
        [
            ("calibrated", "first", plainly, 1),
            ("calibrated", "second", plainly, 2),
            ("calibrated", "second_corrected", plainly, 2),
            ("calibrated", "third", from_exact_states, 3),
            # Whatever the statistics are. The corrector leaves so little of the calibrated ones'
            # errors of third order that those of fourth show in any affordable number of steps.
            ("waves", "second_corrected", plainly, 2),
            ("waves", "third", from_exact_states, 3),
            ("waves", "third_corrected", from_exact_states, 3),
            ("waves", "third_pseudo", plainly, 2),
        ],
    ),
)
def test_error_falls_with_the_stated_order(known, name, end, order, x64):
    statistics = calibrated("line") if known == "calibrated" else waves(0.05, 5.0, 60, (1,))
    solver = dpm_solver_v3(statistics, **VARIANTS[name])
    assert solver.order == order
    counts = (240, 480, 960) if name.startswith("third") else (60, 120, 240)
    slope, errors = regressed(solver, end, counts)
    assert abs(slope - order) < 0.2, (slope, errors)


def test_the_last_steps_may_be_of_lower_orders():
    # One f fewer in the last step but one, none in the last.
    tables = {
        order: dpm_solver_v3(waves(), order, corrector=False).tables(UNEVEN) for order in (1, 2, 3)
    }
    lower = dpm_solver_v3(waves(), 3, corrector=False, lower_order_final=True).tables(UNEVEN)
    np.testing.assert_array_equal(lower.ahead[:-2], tables[3].ahead[:-2])
    np.testing.assert_array_equal(lower.ahead[-2, :1], tables[2].ahead[-2])
    np.testing.assert_array_equal(lower.ahead[-2, 1:], 0)
    np.testing.assert_array_equal(lower.ahead[-1], 0)
    np.testing.assert_array_equal(lower.shift[-1], tables[1].shift[-1])
    assert tables[3].ahead[-1].all()


@pytest.mark.longer
def test_calibrated_statistics_follow_a_mixture_in_fewer_steps(x64):
    golden = np.load(GOLDEN)

    def error(solver, steps):
        sigmas = samplers.log_snr(steps + 1, 0.02, 20.0, final_zero=False)
        end = run(solver, denoise_golden, sigmas, golden["z"])
        return np.sqrt(np.mean((end - golden["out/reference_ode_sigma_min"]) ** 2))

    statistics = calibrated("golden")
    for steps, share in ((5, 0.9), (10, 0.5), (20, 0.3)):
        most = share * error(samplers.dpmpp(), steps)
        for options in (dict(order=2), dict(order=2, corrector=False), dict(order=3)):
            assert error(dpm_solver_v3(statistics, **options), steps) < most, (steps, options)


def test_schedules_are_not_moved_to_the_grid(x64):
    # Statistics on a grid that no level of the schedule is on, and on one that holds them all.
    sigmas = samplers.log_snr(8, 0.05, 20.0, final_zero=False)
    ends = []
    for intervals in (7 * 40, 263):
        lambdas = grid(0.05, 20.0, intervals)
        l = 1 / (1 + np.exp(2 * lambdas))
        statistics = Statistics(l, 0 * l, l * (1 - l), lambdas)
        ends.append(run(dpm_solver_v3(statistics), denoise_line, sigmas, NOISE))
    np.testing.assert_allclose(*ends, atol=1e-8)


def test_a_polynomial_goes_through_its_nodes():
    nodes = np.array([0.0, -0.7, -1.0])
    np.testing.assert_allclose(basis(nodes, nodes), np.eye(3), atol=1e-14)
    u = np.linspace(-1, 2, 7)
    np.testing.assert_allclose(nodes**2 @ basis(u, nodes), u**2, atol=1e-14)
    np.testing.assert_allclose(basis(u, nodes[:2], pseudo=True), basis(u, nodes[:2]), atol=1e-14)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(name):
    answer = jnp.arange(6.0).reshape(2, 3)
    solver = dpm_solver_v3(waves(), **VARIANTS[name])
    for sigmas in (samplers.karras(6), samplers.log_snr(4)):
        end = run(solver, lambda x, s, c: answer, sigmas, jnp.ones((2, 3)))
        np.testing.assert_array_equal(end, answer)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_plan_counts_what_runs(name):
    sigmas, calls = samplers.karras(6), []

    def counted(x, sigma, condition):
        jax.debug.callback(lambda: calls.append(1))
        return contract(x, sigma, condition)

    solver = dpm_solver_v3(waves(), **VARIANTS[name])
    jax.block_until_ready(run(solver, counted, sigmas, jnp.ones((2, 3))))
    jax.effects_barrier()
    plan = samplers.plan(solver, sigmas, guidance.cfg(2.0), shape=(3,))
    assert 2 * len(calls) == plan.totals["main"] == 12
    # Statistics of no shape serve samples of any.
    plan = samplers.plan(dpm_solver_v3(degenerate()), sigmas, guidance.cfg(2.0))
    assert plan.totals["main"] == 12


def test_one_step_and_no_level_above_zero_are_enough_for_order_one():
    answer = jnp.ones((2, 3))
    end = run(dpm_solver_v3(waves(), 1), lambda x, s, c: answer, [80.0, 0.0], answer)
    np.testing.assert_array_equal(end, answer)


def test_a_schedule_may_stop_above_zero():
    noise = jnp.ones((2, 3))
    short = run(dpm_solver_v3(waves(), 3), contract, samplers.karras(6, final_zero=False), noise)
    _, kept = run(dpm_solver_v3(waves(), 3), contract, samplers.karras(6), noise, save="x")
    np.testing.assert_allclose(kept["x"][-1], short, atol=1e-6)


def test_samples_do_not_depend_on_their_batch(x64):
    noise, every = jax.random.normal(jax.random.key(0), (5, 3)), keys(5)

    def ends(chosen):
        solver, rule = dpm_solver_v3(waves(), 3), guidance.unguided()
        sigmas = samplers.karras(5)
        return samplers.sample(contract, rule, solver, sigmas, noise[chosen], None, every[chosen])

    np.testing.assert_allclose(ends(slice(3, 4))[0], ends(slice(None))[3], rtol=1e-12)


def test_a_new_schedule_and_new_statistics_compile_nothing(compilations):
    noise = jnp.ones((2, 3))
    ends = [run(dpm_solver_v3(waves(), 3), contract, samplers.karras(6), noise)]
    with compilations() as compiled:
        for statistics, rho in ((waves(), 5.0), (waves(intervals=50), 7.0), (waves(), 7.0)):
            sigmas = samplers.karras(6, rho=rho)
            ends.append(run(dpm_solver_v3(statistics, 3), contract, sigmas, noise))
    assert not compiled
    assert np.abs(ends[1] - ends[0]).max() > 0
    assert np.abs(ends[2] - ends[0]).max() > 0
    np.testing.assert_array_equal(ends[3], ends[0])


def test_float64_is_kept_and_images_have_statistics_by_place(x64):
    noise = np.random.default_rng(0).normal(size=(2, 4, 4, 2))
    solver = dpm_solver_v3(waves(shape=(4, 4, 2)), 3)
    whole = run(solver, contract, samplers.karras(6), noise)
    assert whole.dtype == jnp.float64
    # Statistics and denoiser are elementwise: one place alone goes its own way.
    waved = waves(shape=(4, 4, 2))
    parts = [a.reshape(len(a), -1)[:, 13:14] for a in (waved.l, waved.s, waved.b)]
    one = dpm_solver_v3(Statistics(*parts, waved.lambdas), 3)
    alone = run(one, contract, samplers.karras(6), noise.reshape(2, -1)[:, 13:14])
    np.testing.assert_allclose(whole.reshape(2, -1)[:, 13:14], alone, atol=1e-12)


def test_guidance_steers():
    def end(rule):
        return samplers.sample(
            Labelled(gaussian),
            rule,
            dpm_solver_v3(waves()),
            samplers.karras(6),
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            jax.random.key(0),
        )

    ends = [end(guidance.cfg(scale)) for scale in (0.0, 1.0, 2.0)]
    assert np.abs(ends[1] - ends[0]).min() > 0.1
    np.testing.assert_allclose(ends[2] - ends[1], ends[1] - ends[0], rtol=1e-3)
    with pytest.raises(ValueError, match="CFG\\+\\+"):
        end(guidance.cfgpp(0.5))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dpm_solver_v3(waves(), 4), "from 1 to 3"),
        (lambda: dpm_solver_v3(waves(), True), "from 1 to 3"),
        (lambda: dpm_solver_v3(waves(), corrector=1), "corrector must be True or False"),
        (lambda: dpm_solver_v3({"l": 1.0}), "samplers.calibrate returns"),
        (
            lambda: run(dpm_solver_v3(waves()), contract, [90.0, 1.0, 0.0], np.ones((1, 3))),
            "sigma_max=80 .*calibrate",
        ),
        (
            lambda: run(dpm_solver_v3(waves()), contract, [8.0, 1.0, 1e-3], np.ones((1, 3))),
            "sigma_min=0.002",
        ),
        (
            lambda: run(dpm_solver_v3(waves(), 3), contract, [8.0, 1.0, 0.0], np.ones((1, 3))),
            "samplers.dpm_solver_v3: .* order 2 or less",
        ),
        (
            lambda: run(dpm_solver_v3(waves()), contract, samplers.karras(4), np.ones((1, 4))),
            r"shape \(3,\), these have \(4,\)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
