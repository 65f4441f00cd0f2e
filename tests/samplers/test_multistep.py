"""Linear multistep solvers: their tables, orders of convergence and agreement with each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from oracles.multistep_runs import (
    NOISE,
    contract,
    denoise_golden,
    denoise_line,
    from_exact_states,
    grid,
    plainly,
)
from oracles.solver_runs import GOLDEN, exact_end, line_mixture, run
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.core.noise_levels import vp_time
from guidestar.samplers.solvers.deis import deis
from guidestar.samplers.solvers.ipndm import ipndm, ipndm_v
from guidestar.samplers.solvers.lms import lms
from guidestar.samplers.solvers.multistep import EQUAL_STEPS, adams_bashforth
from guidestar.samplers.solvers.pndm import pndm
from guidestar.samplers.solvers.runge_kutta import TABLEAUS

# The linear schedule for which sigma is 0.002 at time 0.001 and 80 at time 1.
TOP, LOW = np.log1p(80.0**2), np.log1p(0.002**2)
SLOPE = 2 * (LOW / 1e-3 - TOP) / (1e-3 - 1)
RESOLVED = dict(beta_min=TOP - SLOPE / 2, beta_max=TOP + SLOPE / 2)

# name -> (constructor of an order, evaluations on n steps that end in 0)
FAMILIES = {
    "lms": (lms, lambda n: n),
    "ipndm": (ipndm, lambda n: n),
    "ipndm_v": (ipndm_v, lambda n: n),
    "ipndm_v_published": (partial(ipndm_v, as_published=True), lambda n: n),
    "deis_tab": (deis, lambda n: n),
    "deis_rhoab": (partial(deis, mode="rhoab"), lambda n: n),
    "deis_rhork": (partial(deis, mode="rhork"), lambda n: 4 * n - 3),
    "pndm": (lambda order: pndm(), lambda n: n + 9),
}
MULTISTEP = sorted(FAMILIES.keys() - {"deis_rhork", "pndm"})


@pytest.mark.parametrize(
    ("solver", "steps", "end", "order"),
    few(
        5,
        [
            (lms(3), "karras", from_exact_states, 3),
            (lms(4), "karras", from_exact_states, 4),
            (deis(4), "karras", from_exact_states, 4),
            (ipndm(4), "karras", from_exact_states, 2),
            (ipndm(4), "equal", from_exact_states, 4),
            (ipndm_v(4), "karras", from_exact_states, 4),
            (ipndm_v(2), "karras", plainly, 2),
            (deis(2), "karras", plainly, 2),
            (pndm(), "karras", plainly, 2),
            (pndm(), "equal", plainly, 4),
            (deis(2, "rhork"), "karras", plainly, 2),
            (deis(3, "rhork"), "karras", plainly, 3),
            (deis(4, "rhork"), "karras", plainly, 4),
        ],
    ),
)
def test_error_falls_with_the_stated_order(solver, steps, end, order, x64):
    assert order == solver.order or steps == "equal"
    truth = exact_end(line_mixture(), 5.0 * NOISE, 5.0, 0.05)
    counts = np.array([120, 240, 480])
    errors = [np.abs(end(solver, grid(steps, int(count))) - truth).max() for count in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.2, (slope, errors)


@pytest.mark.parametrize(
    ("solver", "case", "close"),
    [
        (lms(lower_order_final=False), "kdiffusion/lms", 1e-9),
        *((ipndm(n), f"diffsampler/ipndm_order{n}", 1e-9) for n in (2, 3, 4)),
        (ipndm_v(2), "diffsampler/ipndm_v_order2", 1e-9),
        *(
            (ipndm_v(n, as_published=True), f"diffsampler/ipndm_v_order{n}", 1e-9)
            for n in (2, 3, 4)
        ),
        # Those integrals are sums of 10 000 rectangles.
        *((deis(n, **RESOLVED), f"diffsampler/deis_tab_order{n}", 2e-4) for n in (2, 3, 4)),
    ],
)
def test_published_implementations_agree_in_float64(solver, case, close, x64):
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas" if case.startswith("diffsampler") else "sigmas_with_zero"]
    end = run(solver, denoise_golden, sigmas, golden["z"])
    np.testing.assert_allclose(end, golden[f"out/{case}"], atol=close, rtol=0)


@pytest.mark.parametrize("order", [3, 4])
def test_the_published_slips_are_not_the_default(order, x64):
    golden = np.load(GOLDEN)
    end = run(ipndm_v(order), denoise_golden, golden["sigmas"], golden["z"])
    assert np.abs(end - golden[f"out/diffsampler/ipndm_v_order{order}"]).max() > 1e-2


def test_the_published_slips_are_those_known():
    # The third difference's share of equal steps, 3/8, comes out as 11/24; and where ratios of
    # steps change, the weights no longer sum to the step.
    even, uneven = np.arange(6.0, 0.0, -1), np.array([9.0, 7.0, 4.0, 2.0, 1.0])
    np.testing.assert_allclose(
        ipndm_v(4, as_published=True).weights(even)[-1, 3], 11 / 24, rtol=1e-12
    )
    weights = ipndm_v(4, as_published=True).weights(uneven)
    assert np.abs(weights.sum(axis=1) - np.diff(uneven)).argmax() == 3
    np.testing.assert_allclose(weights[:3].sum(axis=1), np.diff(uneven)[:3], rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_on_equal_steps_are_those_of_adams_and_bashforth(order):
    sigmas = np.linspace(9.0, 1.0, 9)
    weights = adams_bashforth(sigmas, order)
    np.testing.assert_allclose(weights[-1], -EQUAL_STEPS[order], rtol=1e-12)
    # The first steps are of lower orders.
    for i in range(order):
        np.testing.assert_allclose(weights[i, : i + 1], -EQUAL_STEPS[i + 1], rtol=1e-12)
        assert not weights[i, i + 1 :].any()
    np.testing.assert_allclose(ipndm(order).weights(sigmas), weights, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", MULTISTEP)
def test_weights_sum_to_the_step(name):
    sigmas = samplers.karras(12)
    weights = FAMILIES[name][0](2 if "published" in name else 4).weights(sigmas)
    np.testing.assert_allclose(weights.sum(axis=1), np.diff(sigmas), rtol=1e-9)


def test_directions_polynomial_in_the_solvers_time_are_integrated_exactly():
    sigmas = samplers.karras(9)
    for solver, time in ((lms(), lambda s: s), (deis(), deis().time)):
        weights = solver.weights(sigmas)
        points, shares = np.polynomial.legendre.leggauss(400)
        for i in range(3, 9):
            low, high = sigmas[i + 1], sigmas[i]
            within = (low + high) / 2 + (low - high) / 2 * points
            integral = (low - high) / 2 * shares @ time(within) ** 3
            extrapolated = weights[i] @ time(sigmas[i - 3 : i + 1][::-1]) ** 3
            np.testing.assert_allclose(extrapolated, integral, rtol=1e-8, atol=1e-9)


def test_the_time_of_deis_is_that_of_variance_preserving_diffusion():
    sigmas = np.array([0.0, 1e-6, 0.002, 0.5, 20.0, 150.0])
    np.testing.assert_allclose(deis().time(sigmas), vp_time(sigmas), rtol=1e-12)
    resolved = deis(**RESOLVED).time(np.array([0.002, 80.0]))
    np.testing.assert_allclose(resolved, [1e-3, 1.0], rtol=1e-9)


@pytest.mark.parametrize("name", MULTISTEP)
def test_order_one_is_euler_to_the_bit(name):
    sigmas, noise = samplers.karras(5), jnp.asarray(NOISE, jnp.float32)
    ends = [
        run(solver, contract, sigmas, noise) for solver in (FAMILIES[name][0](1), samplers.euler())
    ]
    np.testing.assert_array_equal(*ends)


def test_three_names_of_one_method_agree(x64):
    sigmas = samplers.karras(8)
    ends = [run(s, denoise_line, sigmas, NOISE) for s in (lms(3), ipndm_v(3), deis(3, "rhoab"))]
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])


def test_rho_runge_kutta_of_order_two_is_heun(x64):
    sigmas = samplers.karras(8)
    ends = [run(s, denoise_line, sigmas, NOISE) for s in (deis(2, "rhork"), samplers.heun())]
    np.testing.assert_allclose(*ends, atol=1e-13)


def test_pndm_is_its_closed_form_on_gaussian_data(x64):
    # The direction is k x with k = sigma / (1 + sigma^2): every state is a multiple of the first.
    sigmas = samplers.karras(6, 0.05, 5.0, final_zero=False)
    x, slopes = sigmas[0], []
    for i, (start, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        h, middle = end - start, (start + end) / 2
        k, k_middle, k_end = (s / (1 + s**2) for s in (start, middle, end))
        slopes.insert(0, k * x)
        if i < 3:
            e1 = k * x
            e2 = k_middle * (x + h / 2 * e1)
            e3 = k_middle * (x + h / 2 * e2)
            e4 = k_end * (x + h * e3)
            x = x + h * (e1 + 2 * e2 + 2 * e3 + e4) / 6
        else:
            x = x + h * np.dot([55, -59, 37, -9], slopes[:4]) / 24
    end = run(pndm(), contract, sigmas, jnp.ones((1, 1)))
    np.testing.assert_allclose(end[0, 0], x, rtol=1e-12)


def test_every_tableau_is_consistent():
    for order, tableau in TABLEAUS.items():
        assert len(tableau.weights) == order
        np.testing.assert_allclose(sum(tableau.weights), 1, rtol=1e-15)
        np.testing.assert_allclose([sum(row) for row in tableau.stages], tableau.nodes)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plan_counts_what_runs(name):
    make, expected = FAMILIES[name]
    solver, sigmas, calls = make(4), samplers.karras(6), []

    def counted(x, sigma, condition):
        jax.debug.callback(lambda: calls.append(1))
        return contract(x, sigma, condition)

    jax.block_until_ready(run(solver, counted, sigmas, jnp.ones((2, 3))))
    jax.effects_barrier()
    plan = samplers.plan(solver, sigmas, guidance.cfg(2.0))
    assert 2 * len(calls) == plan.totals["main"] == 2 * expected(6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(name):
    answer = jnp.arange(6.0).reshape(2, 3)
    end = run(FAMILIES[name][0](4), lambda x, s, c: answer, samplers.karras(6), jnp.ones((2, 3)))
    np.testing.assert_array_equal(end, answer)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_do_not_depend_on_their_batch(name):
    noise, every = jax.random.normal(jax.random.key(0), (5, 3)), keys(5)

    def ends(chosen):
        return samplers.sample(
            contract,
            guidance.unguided(),
            FAMILIES[name][0](4),
            samplers.karras(5),
            noise[chosen],
            None,
            every[chosen],
        )

    np.testing.assert_allclose(ends(slice(3, 4))[0], ends(slice(None))[3], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_schedule_compiles_nothing(name, compilations):
    make, noise = FAMILIES[name][0], jnp.ones((2, 3))
    first = run(make(4), contract, samplers.karras(6), noise)
    with compilations() as compiled:
        second = run(make(4), contract, samplers.karras(6, rho=5.0), noise)
    assert not compiled
    assert np.abs(first - second).max() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_guidance_steers_the_direction(name):
    def labelled(x, sigma, condition):
        return contract(x, sigma, None) + (0.0 if condition is None else 1.0)

    def end(rule):
        return samplers.sample(
            labelled,
            rule,
            FAMILIES[name][0](4),
            samplers.karras(6),
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            jax.random.key(0),
        )

    # Here D is affine in the condition, and with it the end in the scale.
    ends = [end(guidance.cfg(scale)) for scale in (0.0, 1.0, 2.0)]
    assert np.abs(ends[1] - ends[0]).min() > 0.1
    np.testing.assert_allclose(ends[2] - ends[1], ends[1] - ends[0], rtol=1e-3)


def test_renoising_rules_are_refused():
    with pytest.raises(ValueError, match="CFG\\+\\+"):
        samplers.sample(
            lambda x, s, c: x / 2,
            guidance.cfgpp(0.5),
            lms(2),
            samplers.karras(4),
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            jax.random.key(0),
        )


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lms(0), "from 1 to 4"),
        (lambda: ipndm(5), "from 1 to 4"),
        (lambda: ipndm_v(True), "from 1 to 4"),
        (lambda: ipndm_v(2, as_published=1), "True or False"),
        (lambda: deis(1, "rhork"), "from 2 to 4"),
        (lambda: deis(2, "neither"), "tab, rhoab, logrho, rhork"),
        (lambda: deis(2, beta_min=1.0, beta_max=0.5), "beta_min < beta_max"),
        (lambda: plainly(lms(4), samplers.karras(3)), "samplers.lms: .* order 3 or less"),
        (lambda: plainly(pndm(), samplers.karras(3)), "samplers.pndm: .* take 4 steps"),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
