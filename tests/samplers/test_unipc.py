"""UniPC: its tables, orders of convergence, golden runs, and what it is the same as."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from oracles.exact_starts import from_exact_states, regressed
from oracles.multistep_runs import contract, denoise_golden, plainly
from oracles.solver_runs import GOLDEN, run
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.samplers.solvers.dpmpp import dpmpp
from guidestar.samplers.solvers.euler import euler
from guidestar.samplers.solvers.unipc import VARIANTS, unipc

EVERY = [
    (order, variant, corrector)
    for order in (1, 2, 3)
    for variant in VARIANTS
    for corrector in (True, False)
]


@pytest.mark.parametrize(
    ("solver", "end", "order"),
    few(
        3,
        [
            (unipc(1, corrector=False), plainly, 1),
            (unipc(2, corrector=False), plainly, 2),
            (unipc(2, "bh1", corrector=False), plainly, 2),
            (unipc(3, corrector=False), from_exact_states, 3),
            (unipc(1), plainly, 2),
            (unipc(1, "bh1"), plainly, 2),
            # The corrected step of order 1 that warms up is precise enough for order 3.
            (unipc(2), plainly, 3),
            (unipc(2, "bh1"), from_exact_states, 3),
            (unipc(3), from_exact_states, 4),
            # A last step of order 1 caps whatever was before it.
            (unipc(3, lower_order_final=True), from_exact_states, 2),
        ],
    ),
)
def test_error_falls_with_the_stated_order(solver, end, order, x64):
    assert order == solver.order
    slope, errors = regressed(solver, end)
    assert abs(slope - order) < 0.2, (slope, errors)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_published_implementations_agree_in_float64(order, variant, x64):
    golden = np.load(GOLDEN)
    solver = unipc(order, variant, lower_order_final=True)
    end = run(solver, denoise_golden, golden["sigmas"], golden["z"])
    expected = golden[f"out/diffsampler/unipc_{variant}_order{order}"]
    np.testing.assert_allclose(end, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_predictor_of_order_one_is_euler(variant, x64):
    sigmas = samplers.karras(8)
    ends = [plainly(s, sigmas) for s in (unipc(1, variant, corrector=False), euler())]
    np.testing.assert_allclose(*ends, atol=1e-13)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("lower_order_final", [False, True])
def test_the_predictor_is_the_multistep_dpmpp(order, lower_order_final, x64):
    options = dict(lower_order_final=lower_order_final)
    for sigmas in (samplers.karras(8), samplers.karras(8, final_zero=False)):
        ends = [
            plainly(solver, sigmas)
            for solver in (unipc(order, corrector=False, **options), dpmpp(order, **options))
        ]
        np.testing.assert_allclose(*ends, atol=1e-13)


@pytest.mark.longer
def test_the_variants_differ_by_their_warm_up_alone(x64):
    sigmas = samplers.karras(9, 0.05, 5.0, final_zero=False)
    for corrector in (True, False):
        solvers = [unipc(3, variant, corrector=corrector) for variant in VARIANTS]
        exactly = [from_exact_states(solver, sigmas) for solver in solvers]
        np.testing.assert_allclose(*exactly, atol=1e-13)
        ends = [plainly(solver, sigmas) for solver in solvers]
        assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_a_corrected_step_by_hand(x64):
    # D is 1, 3 and 2 at sigma 4, 2 and 1, so that h = log 2, and x begins at 4. The predictor:
    # 4/2 + 1/2 = 5/2. The corrector adds B/2 (3 - 1), B = 1/2 (bh2): 3. The predictor of order 2:
    # 3/2 + 3/2 + (1/2)/2 (3 - 1) = 7/2, and to 0 it is D(1) = 2.
    def denoise(x, sigma, condition):
        return jnp.where(sigma == 4, 1.0, jnp.where(sigma == 2, 3.0, 2.0)) + 0 * x

    noise, sigmas = jnp.ones((1, 1)), np.array([4.0, 2.0, 1.0, 0.0])
    end, kept = run(unipc(), denoise, sigmas, noise, save="x")
    # What is saved is what was evaluated, before its correction.
    np.testing.assert_allclose(kept["x"][:, 0, 0], [4.0, 2.5, 3.5], rtol=1e-12)
    assert end[0, 0] == 2.0
    _, kept = run(unipc(variant="bh1"), denoise, sigmas, noise, save="x")
    h = np.log(2)
    predicted = (2.5 + h) / 2 + 3 / 2 + h / 2 * 2
    np.testing.assert_allclose(kept["x"][:, 0, 0], [4.0, 2.5, predicted], rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_corrected_steps_integrate_polynomials_of_one_degree_more(order, x64):
    # D depends on u = -log sigma alone, so that x = sum_k (-1)^k (d/du)^k D + C sigma.
    polynomial = np.polynomial.Polynomial([0.3, -1.0, 0.5, 0.7][: order + 1])

    def denoise(x, sigma, condition):
        return jnp.polyval(polynomial.coef[::-1], -jnp.log(sigma)) + 0 * x

    sigmas = samplers.karras(7, 0.1, 5.0, final_zero=False)
    solver = unipc(order)
    _, kept = run(solver, denoise, sigmas, jnp.ones((1, 1)), save="x")
    u, x = -np.log(sigmas[:-1]), kept["x"][:, 0, 0]
    # What is saved is what was evaluated, before its correction.
    for i, row in enumerate(solver.tables(sigmas).correct[1:], start=1):
        for weight, past in zip(row[:i], u[:i][::-1], strict=False):
            x = x.at[i].add(weight * (polynomial(past) - polynomial(u[i])))
    particular = sum((-1) ** k * polynomial.deriv(k)(u) for k in range(order + 1))
    constants = (x - particular) / sigmas[:-1]
    # From the first step of full order on.
    np.testing.assert_allclose(constants[order:], constants[order - 1], rtol=1e-9)
    assert np.abs(constants[0] - constants[order - 1]) > 1e-3


@pytest.mark.parametrize(("order", "variant", "corrector"), EVERY)
@pytest.mark.parametrize("final_zero", [True, False])
def test_a_prediction_that_does_not_change_is_followed_exactly(
    order, variant, corrector, final_zero
):
    answer, noise = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))
    sigmas = samplers.karras(6, final_zero=final_zero)
    end = run(unipc(order, variant, corrector=corrector), lambda x, s, c: answer, sigmas, noise)
    if final_zero:
        np.testing.assert_array_equal(end, answer)
    else:
        expected = answer + sigmas[-1] / sigmas[0] * (sigmas[0] * noise - answer)
        np.testing.assert_allclose(end, expected, atol=1e-5)


def test_an_evaluation_a_step_with_and_without_corrector():
    for corrector in (True, False):
        solver = unipc(3, corrector=corrector)
        plan = samplers.plan(solver, samplers.karras(6), guidance.unguided())
        assert plan.totals["main"] == 6


def test_a_new_schedule_compiles_nothing(compilations):
    noise = jnp.ones((2, 3))
    first = run(unipc(3), contract, samplers.karras(6), noise)
    with compilations() as compiled:
        second = run(unipc(3), contract, samplers.karras(6, rho=5.0), noise)
    assert not compiled
    assert np.abs(first - second).max() > 0


def test_renoising_rules_are_refused():
    with pytest.raises(ValueError, match="CFG\\+\\+.*unipc"):
        samplers.sample(
            lambda x, s, c: x / 2,
            guidance.cfgpp(0.5),
            unipc(),
            samplers.karras(4),
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            keys(2),
        )


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unipc(0), "from 1 to 3"),
        (lambda: unipc(4), "from 1 to 3"),
        (lambda: unipc(True), "from 1 to 3"),
        (lambda: unipc(2, "bh3"), "bh1 or bh2"),
        (lambda: unipc(2, corrector=1), "corrector must be True or False"),
        (lambda: unipc(2, lower_order_final="no"), "lower_order_final must be True or False"),
        (lambda: plainly(unipc(3), samplers.karras(2)), "order 2 or less"),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=f"samplers.unipc: .*{message}"):
        make()
