"""DPM-Solver and DPM-Solver++: orders of convergence, golden runs, budgets, what equals what."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from oracles.exact_starts import from_exact_states, regressed
from oracles.multistep_runs import NOISE, contract, denoise_golden, denoise_line, plainly
from oracles.multistep_runs import from_exact_states as from_exact_directions
from oracles.solver_runs import GOLDEN, run
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.samplers.loop import segments
from guidestar.samplers.solvers.ancestral import dpmpp_2s_ancestral
from guidestar.samplers.solvers.dpm_solver import dpm_2, dpm_solver
from guidestar.samplers.solvers.dpmpp import dpmpp
from guidestar.samplers.solvers.euler import euler
from guidestar.samplers.solvers.multistep import adams_bashforth
from guidestar.samplers.solvers.singlestep import singlestep_orders

TAYLOR, FINAL, PUBLISHED = (
    dict(slope="taylor"),
    dict(lower_order_final=True),
    dict(as_published=True),
)
ADAMS = partial(dpm_solver, singlestep=False)
# name -> (solver, evaluations on n steps that end in 0)
EVERY = {
    "2S": (dpmpp(2, singlestep=True), lambda n: 2 * n - 1),
    "2S taylor": (dpmpp(2, singlestep=True, **TAYLOR), lambda n: 2 * n - 1),
    "3S": (dpmpp(3, singlestep=True), lambda n: 3 * n - 2),
    "2M": (dpmpp(2), lambda n: n),
    "2M taylor": (dpmpp(2, **TAYLOR), lambda n: n),
    "2M final": (dpmpp(2, **FINAL), lambda n: n),
    "3M": (dpmpp(3), lambda n: n),
    "3M taylor": (dpmpp(3, **TAYLOR), lambda n: n),
    "3M published": (dpmpp(3, **PUBLISHED), lambda n: n),
    "noise 2S": (dpm_2(), lambda n: 2 * n - 1),
    "noise 3S": (dpm_solver(3), lambda n: 3 * n - 2),
    "noise 2M": (ADAMS(2), lambda n: n),
    "noise 2M published": (ADAMS(2, **PUBLISHED), lambda n: n),
    "noise 3M": (ADAMS(3), lambda n: n),
    "noise 3M published": (ADAMS(3, **PUBLISHED, **FINAL), lambda n: n),
}


def budget(make, spent, solver_order):
    """Return a run's end in as many steps as regressed, of the budget that they spend."""

    def end(solver, sigmas):
        del solver
        evaluations = solver_order * (len(sigmas) - 1) - spent
        return plainly(make(solver_order, evaluations=evaluations), sigmas)

    return end


@pytest.mark.parametrize(
    ("solver", "end", "order"),
    few(
        5,
        [
            (dpmpp(2, singlestep=True), plainly, 2),
            (dpmpp(2, singlestep=True, **TAYLOR), plainly, 2),
            (dpmpp(3, singlestep=True), plainly, 3),
            (dpmpp(2), plainly, 2),
            (dpmpp(2, **TAYLOR), plainly, 2),
            (dpmpp(3), from_exact_states, 3),
            (dpmpp(3, **PUBLISHED), from_exact_states, 2),
            # A last step of order 1 caps whatever was before it.
            (dpmpp(3, **FINAL), from_exact_states, 2),
            (dpm_2(), plainly, 2),
            (dpm_solver(3), plainly, 3),
            (ADAMS(2), plainly, 2),
            (ADAMS(2, **PUBLISHED), plainly, 2),
            (ADAMS(3), from_exact_directions, 3),
            (ADAMS(3, **PUBLISHED), from_exact_directions, 2),
            # Budgets: 3 ... 3 2 is of order 3 still, 3 ... 3 1 is not.
            (dpm_solver(3, evaluations=5), budget(dpm_solver, 1, 3), 3),
            (dpm_solver(3, evaluations=4), budget(dpm_solver, 2, 3), 2),
        ],
    ),
)
def test_error_falls_with_the_stated_order(solver, end, order, x64):
    assert order == solver.order
    slope, errors = regressed(solver, end)
    assert abs(slope - order) < 0.2, (slope, errors)


@pytest.mark.parametrize(
    ("solver", "case"),
    [
        (dpmpp(1, **FINAL), "diffsampler/dpmpp_order1"),
        (dpmpp(2, **FINAL), "diffsampler/dpmpp_order2"),
        (dpmpp(3, **PUBLISHED, **FINAL), "diffsampler/dpmpp_order3"),
        (ADAMS(2, **PUBLISHED, **FINAL), "diffsampler/dpmsolver_order2"),
        (ADAMS(3, **PUBLISHED, **FINAL), "diffsampler/dpmsolver_order3"),
        (dpm_2(), "diffsampler/dpm_2"),
        (dpm_2(), "kdiffusion/dpm_2"),
        (dpm_2(), "kdiffusion/dpm_2_ancestral"),
        (dpmpp(2), "kdiffusion/dpmpp_2m"),
        (dpmpp(2), "kdiffusion/dpmpp_2m_sde"),
        (dpmpp(2, singlestep=True), "kdiffusion/dpmpp_2s_ancestral"),
        (dpmpp(2, singlestep=True), "kdiffusion/dpmpp_sde"),
        # That one lacks the factor of 2 too, and warms up with the other slope.
        (dpmpp(3, **PUBLISHED, **TAYLOR), "kdiffusion/dpmpp_3m_sde"),
    ],
)
def test_published_implementations_agree_in_float64(solver, case, x64):
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas" if case.startswith("diffsampler") else "sigmas_with_zero"]
    end = run(solver, denoise_golden, sigmas, golden["z"])
    np.testing.assert_allclose(end, golden[f"out/{case}"], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("solver", "case"),
    [
        (dpmpp(3, **FINAL), "diffsampler/dpmpp_order3"),
        (ADAMS(3, **FINAL), "diffsampler/dpmsolver_order3"),
        (dpmpp(3, **TAYLOR), "kdiffusion/dpmpp_3m_sde"),
    ],
)
def test_the_missing_factor_is_not_the_default(solver, case, x64):
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas" if case.startswith("diffsampler") else "sigmas_with_zero"]
    end = run(solver, denoise_golden, sigmas, golden["z"])
    assert np.abs(end - golden[f"out/{case}"]).max() > 1e-2


def test_order_one_is_euler():
    for solver in (dpmpp(1), dpmpp(1, singlestep=True), dpm_solver(1), ADAMS(1, **FINAL)):
        assert solver == euler()


def test_dpm_2_is_dpm_solver_of_order_two():
    assert dpm_2() == dpm_solver(2)


def test_2s_is_its_ancestral_form_without_noise(x64):
    sigmas = samplers.karras(8)
    ends = [plainly(s, sigmas) for s in (dpmpp(2, singlestep=True), dpmpp_2s_ancestral(eta=0))]
    np.testing.assert_allclose(*ends, atol=1e-13)


@pytest.mark.parametrize("order", [2, 3])
def test_the_noise_direction_is_a_polynomial_in_log_sigma(order):
    sigmas = samplers.karras(9, 0.05, 5.0, final_zero=False)
    expected = adams_bashforth(sigmas, order, np.log)
    np.testing.assert_allclose(ADAMS(order).weights(sigmas), expected, rtol=1e-10, atol=1e-13)


def exactly(prediction, polynomial, start, end):
    """Return what a step adds of a prediction that is a polynomial in v = log(sigma/s)/h."""
    h = np.log(start / end)
    points, shares = np.polynomial.legendre.leggauss(200)
    v, shares = (1 + points) / 2, shares / 2
    decay = np.exp(-h * (1 - v)) if prediction == "data" else -end * np.exp(h * (1 - v))
    return h * shares @ (decay * polynomial(v))


@pytest.mark.parametrize(
    ("name", "degree"),
    [
        ("2M taylor", 1),
        ("3M", 2),
        ("3M taylor", 2),
        ("noise 2M", 1),
        ("noise 3M", 2),
    ],
)
def test_multistep_steps_integrate_polynomials_of_their_degree(name, degree):
    solver, sigmas = EVERY[name][0], samplers.karras(8, 0.05, 5.0, final_zero=False)
    polynomial = np.polynomial.Polynomial([0.7, -0.4, 1.3][: degree + 1])
    kind = "noise" if "noise" in name else "data"
    for i in range(degree, len(sigmas) - 1):
        start, end = sigmas[i : i + 2]
        past = np.log(start / sigmas[i - degree : i + 1][::-1]) / np.log(start / end)
        changes = polynomial(past) - polynomial(0.0)
        if kind == "noise":
            added = (end - start) * polynomial(0.0) + solver.tables(sigmas).beyond[i] @ changes
        else:
            ahead = solver.tables(sigmas).ahead[i]
            added = (1 - end / start) * polynomial(0.0) + ahead @ changes[1:]
        np.testing.assert_allclose(added, exactly(kind, polynomial, start, end), rtol=1e-12)


@pytest.mark.parametrize("name", ["3M published", "noise 3M published"])
def test_as_published_the_curvature_counts_half(name):
    solver, sigmas = EVERY[name][0], samplers.karras(8, 0.05, 5.0, final_zero=False)
    kind, i = ("noise" if "noise" in name else "data"), 4
    start, end = sigmas[i : i + 2]
    past = np.log(start / sigmas[i - 2 : i + 1][::-1]) / np.log(start / end)
    table = solver.tables(sigmas)
    weights = table.beyond[i][1:] if kind == "noise" else table.ahead[i]
    for power, share in ((1, 1.0), (2, 0.5)):
        moment = exactly(kind, lambda v, power=power: v**power, start, end)
        np.testing.assert_allclose(weights @ past[1:] ** power, share * moment, rtol=1e-11)


def test_a_slope_by_hand():
    # Halving sigma has h = log 2 and r = 1: the midpoint takes half of 1 - 1/2, the line's
    # integral is 1 - (1 - 1/2)/log 2.
    sigmas = np.array([4.0, 2.0, 1.0])
    for slope, weight in (("midpoint", 1 / 4), ("taylor", 1 - 1 / (2 * np.log(2)))):
        np.testing.assert_allclose(dpmpp(2, slope=slope).tables(sigmas).ahead[1], -weight)
        table = dpmpp(2, singlestep=True, slope=slope).tables(sigmas)
        np.testing.assert_allclose(table.beyond[0], 2 * weight)
        np.testing.assert_allclose(table.levels[0], np.sqrt(8.0))


@pytest.mark.parametrize("kind", ["data", "noise"])
def test_steps_of_three_evaluations_by_the_published_formulas(kind, x64):
    start, end, x = 4.0, 0.5, 4.0 * jnp.asarray(NOISE)
    h, r1, r2 = np.log(start / end), 1 / 3, 2 / 3
    s1, s2 = start * np.exp(-r1 * h), start * np.exp(-r2 * h)
    if kind == "data":
        solver = dpmpp(3, singlestep=True)
        d = denoise_line(x, start, None)
        u = s1 / start * x - np.expm1(-r1 * h) * d
        d1 = denoise_line(u, s1, None) - d
        phi = np.expm1(-r2 * h) / (r2 * h) + 1
        u = s2 / start * x - np.expm1(-r2 * h) * d + r2 / r1 * phi * d1
        d2 = denoise_line(u, s2, None) - d
        expected = end / start * x - np.expm1(-h) * d + (np.expm1(-h) / h + 1) / r2 * d2
    else:
        solver = dpm_solver(3)

        def noise(x, sigma):
            return (x - denoise_line(x, sigma, None)) / sigma

        d = noise(x, start)
        d1 = noise(x - s1 * np.expm1(r1 * h) * d, s1) - d
        phi = np.expm1(r2 * h) / (r2 * h) - 1
        u = x - s2 * np.expm1(r2 * h) * d - r2 / r1 * s2 * phi * d1
        d2 = noise(u, s2) - d
        expected = x - end * np.expm1(h) * d - end / r2 * (np.expm1(h) / h - 1) * d2
    np.testing.assert_allclose(plainly(solver, np.array([start, end])), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("evaluations", "order", "expected"),
    [
        (1, 3, [1]),
        (2, 3, [2]),
        (3, 3, [2, 1]),
        (4, 3, [3, 1]),
        (5, 3, [3, 2]),
        (9, 3, [3, 3, 2, 1]),
        (10, 3, [3, 3, 3, 1]),
        (11, 3, [3, 3, 3, 2]),
        (1, 2, [1]),
        (6, 2, [2, 2, 2]),
        (7, 2, [2, 2, 2, 1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_a_budget_is_spent_in_the_published_orders(evaluations, order, expected):
    assert singlestep_orders(evaluations, order) == expected
    assert sum(expected) == evaluations


@pytest.mark.parametrize("make", few(3, [partial(dpmpp, singlestep=True), dpm_solver]))
@pytest.mark.parametrize(("order", "evaluations"), [(3, 9), (3, 10), (3, 11), (2, 7), (2, 8)])
def test_steps_of_a_budget_are_those_of_each_order(make, order, evaluations, x64):
    solver, orders = make(order, evaluations=evaluations), singlestep_orders(evaluations, order)
    sigmas = samplers.karras(len(orders) + 1, 0.05, 5.0, final_zero=False)
    plan = samplers.plan(solver, sigmas, guidance.unguided())
    assert [step["main"] for step in plan.evaluations] == orders
    expected = 5.0 * NOISE
    for start, end, each in zip(sigmas[:-1], sigmas[1:], orders, strict=True):
        expected = plainly_from(make(each), [start, end], expected)
    np.testing.assert_allclose(plainly(solver, sigmas), expected, atol=1e-13)
    # Steps of one order share a scan.
    counts = [part.steps for part in segments(guidance.unguided(), solver, sigmas)]
    assert counts == [orders.count(n) for n in sorted(set(orders), reverse=True)]


def plainly_from(solver, sigmas, x):
    return run(solver, denoise_line, np.array(sigmas), x / sigmas[0])


@pytest.mark.parametrize(("evaluations", "spent"), [(9, 9), (10, 10), (11, 10)])
def test_a_budget_ends_at_zero_with_a_step_of_euler(evaluations, spent):
    solver = dpmpp(3, singlestep=True, evaluations=evaluations)
    plan = samplers.plan(solver, samplers.karras(4), guidance.unguided())
    assert plan.totals["main"] == spent
    answer = jnp.arange(6.0).reshape(2, 3)
    end = run(solver, lambda x, s, c: answer, samplers.karras(4), jnp.ones((2, 3)))
    np.testing.assert_array_equal(end, answer)


@pytest.mark.parametrize("steps", [3, 5])
def test_another_number_of_steps_than_the_budgets_is_refused(steps):
    solver, sigmas = dpm_solver(3, evaluations=10), samplers.karras(steps)
    message = f"samplers.dpm_solver: 10 .* 3, 3, 3, 1, but the schedule has {steps}.* for 4 steps"
    for use in (
        lambda: plainly(solver, sigmas),
        lambda: samplers.plan(solver, sigmas, guidance.unguided()),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("final_zero", [True, False])
def test_a_prediction_that_does_not_change_is_followed_exactly(name, final_zero):
    answer, noise = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))
    sigmas = samplers.karras(6, final_zero=final_zero)
    end = run(EVERY[name][0], lambda x, s, c: answer, sigmas, noise)
    if final_zero:
        np.testing.assert_array_equal(end, answer)
    else:
        expected = answer + sigmas[-1] / sigmas[0] * (sigmas[0] * noise - answer)
        np.testing.assert_allclose(end, expected, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_the_plan_counts_what_runs(name):
    (solver, expected), sigmas, calls = EVERY[name], samplers.karras(5), []

    def counted(x, sigma, condition):
        jax.debug.callback(lambda: calls.append(1))
        return contract(x, sigma, condition)

    jax.block_until_ready(run(solver, counted, sigmas, jnp.ones((2, 3))))
    jax.effects_barrier()
    plan = samplers.plan(solver, sigmas, guidance.unguided())
    assert len(calls) == plan.totals["main"] == expected(5)


@pytest.mark.parametrize("name", ["2S", "3M", "noise 3S", "noise 3M"])
def test_a_new_schedule_compiles_nothing(name, compilations):
    solver, noise = EVERY[name][0], jnp.ones((2, 3))
    first = run(solver, contract, samplers.karras(6), noise)
    with compilations() as compiled:
        second = run(solver, contract, samplers.karras(6, rho=5.0), noise)
    assert not compiled
    assert np.abs(first - second).max() > 0


@pytest.mark.parametrize("name", EVERY)
def test_renoising_rules_are_for_multistep_order_two_of_dpmpp(name):
    solver = EVERY[name][0]

    def renoise():
        return samplers.sample(
            lambda x, s, c: x / 2,
            guidance.cfgpp(0.5),
            solver,
            samplers.karras(4),
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            keys(2),
        )

    assert solver.renoises == name.startswith("2M")
    if solver.renoises:
        assert np.isfinite(renoise()).all()
    else:
        with pytest.raises(ValueError, match="CFG\\+\\+"):
            renoise()


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dpmpp(0), "dpmpp: .*from 1 to 3"),
        (lambda: dpmpp(4), "dpmpp: .*from 1 to 3"),
        (lambda: dpmpp(True), "dpmpp: .*from 1 to 3"),
        (lambda: dpmpp(2, "taylor"), "dpmpp: singlestep must be True or False"),
        (lambda: dpmpp(2, slope="heun"), "dpmpp: slope is midpoint or taylor"),
        (lambda: dpmpp(2, difference="neither"), "dpmpp: difference is mixed or consistent"),
        (lambda: dpmpp(3, difference="consistent"), "dpmpp: difference is of multistep order 2"),
        (lambda: dpmpp(2, True, difference="consistent"), "dpmpp: difference is of multistep"),
        (lambda: dpmpp(2, as_published=True), "dpmpp: as_published is of multistep order 3"),
        (lambda: dpmpp(3, True, as_published=True), "dpmpp: as_published is of multistep"),
        (lambda: dpmpp(1, slope="taylor"), "dpmpp: slope .* there are none"),
        (lambda: dpmpp(3, True, slope="taylor"), "dpmpp: slope .* there are none"),
        (lambda: dpmpp(3, True, slope="taylor", evaluations=10), "dpmpp: slope .* there are none"),
        (lambda: dpmpp(2, True, lower_order_final=True), "dpmpp: lower_order_final is for multi"),
        (lambda: dpmpp(3, evaluations=9), "dpmpp: evaluations is a budget for singlestep"),
        (lambda: dpmpp(1, True, evaluations=9), "dpmpp: evaluations is a budget for singlestep"),
        (lambda: dpmpp(3, True, evaluations=0), "dpmpp: evaluations must be a positive integer"),
        (lambda: dpm_solver(4), "dpm_solver: .*from 1 to 3"),
        (lambda: dpm_solver(2, singlestep="no"), "dpm_solver: singlestep must be True or False"),
        (lambda: dpm_solver(2, as_published=True), "dpm_solver: as_published is of multistep"),
        (lambda: ADAMS(1, as_published=True), "dpm_solver: as_published is of multistep"),
        (lambda: dpm_solver(2, lower_order_final=True), "dpm_solver: lower_order_final is for"),
        (lambda: ADAMS(3, evaluations=9), "dpm_solver: evaluations is a budget"),
        (lambda: singlestep_orders(2.5, 3), "singlestep_orders: evaluations must be a positive"),
        (lambda: singlestep_orders(9, 4), "singlestep_orders: order must be .* from 1 to 3"),
        (lambda: plainly(dpmpp(3), samplers.karras(2)), "dpmpp: .* order 2 or less"),
        (lambda: plainly(ADAMS(3), samplers.karras(2)), "dpm_solver: .* order 2 or less"),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=f"samplers.{message}"):
        make()


def test_slope_belongs_to_a_budgets_step_of_order_two():
    # 9 evaluations are 3 3 2 1.
    sigmas = samplers.karras(5, final_zero=False)
    tables = [
        dpmpp(3, singlestep=True, evaluations=9, slope=slope).tables(sigmas).beyond
        for slope in ("midpoint", "taylor")
    ]
    np.testing.assert_array_equal((tables[0] != tables[1]).any(axis=1), [False, False, True, False])
