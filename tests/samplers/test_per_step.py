"""Solvers that take each step in a way of its own, against steps worked out one by one."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from oracles.solver_runs import GOLDEN, exact_end, line_mixture, run
from scipy.integrate import quad_vec
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.models.exact.mixture import GaussianMixture
from guidestar.samplers.solvers.multistep import adams_bashforth
from guidestar.samplers.solvers.per_step import MENU, Choice, per_step

START = np.array([[-1.2], [-0.3], [0.4], [1.5]])
# What a step may do, over two schedules of steps that differ in ratio.
MIXED = (
    [("data", 2, True), ("noise", 2), ("noise", 3, True), ("data", 1), ("data", 3, True),
     ("noise", 1, True), ("noise", 2, True), ("data", 2)],
    [("noise", 1, True), ("noise", 1), ("data", 3, True), ("noise", 3, True), ("noise", 3),
     ("data", 2, True), ("data", 3), ("noise", 3, True)],
)  # fmt: skip


@jax.tree_util.Partial
def denoise_golden(x, sigma, condition):
    golden = np.load(GOLDEN)
    mixture = GaussianMixture(golden["weights"], golden["means"], golden["covariances"])
    return mixture.denoise(x, sigma)


@jax.tree_util.Partial
def contract(x, sigma, condition):
    return x / (1 + sigma**2)


def step_exactly(prediction, x, sigma, end, nodes, values):
    """Take a step with the polynomial in log sigma through known predictions."""
    shape = np.shape(values)[1:]
    at = np.log(nodes) - np.log(sigma)
    fit = np.polyfit(at, np.reshape(values, (len(nodes), -1)), len(nodes) - 1)

    def through(s):
        return sum(c * np.log(s / sigma) ** p for p, c in enumerate(fit[::-1])).reshape(shape)

    if prediction == "noise":
        return x + quad_vec(through, sigma, end, epsabs=1e-13)[0]
    # d(x/sigma) = -D/sigma^2 d sigma along the flow.
    return end * (x / sigma - quad_vec(lambda s: through(s) / s**2, sigma, end, epsabs=1e-13)[0])


def follow_exactly(choices, sigmas, x):
    """Take every step from its definition, and again where its corrector says so."""
    seen = {"data": [], "noise": []}
    again = None
    for i, (sigma, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = np.asarray(denoise_golden(jnp.asarray(x), sigma, None))
        seen["data"].insert(0, denoised)
        seen["noise"].insert(0, (x - denoised) / sigma)
        if again is not None:
            before, kind, count = again
            nodes = sigmas[i - count + 1 : i + 1][::-1]
            x = step_exactly(kind, before, sigmas[i - 1], sigma, nodes, seen[kind][:count])
        kind, order, corrector = Choice(*choices[i])
        known = min(order, i + 1)
        again = (x, kind, known + 1) if corrector else None
        nodes = sigmas[i - known + 1 : i + 1][::-1]
        x = step_exactly(kind, x, sigma, end, nodes, seen[kind][:known])
    return x


@pytest.mark.parametrize("choices", MIXED)
def test_every_mixture_of_steps_is_what_its_choices_say(choices, x64):
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas"][2:11]
    noise = golden["z"][:3]
    end = run(per_step(choices), denoise_golden, sigmas, noise)
    expected = follow_exactly(choices, sigmas, noise * sigmas[0])
    np.testing.assert_allclose(end, expected, rtol=0, atol=1e-8)


def unipc(order, corrector, sigmas, x):
    """UniPC with data prediction, its linear systems solved in full: B(h) cancels."""
    past, corrected = [], x
    for i, (sigma, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = np.asarray(denoise_golden(jnp.asarray(x), sigma, None))
        if i and corrector:
            known = min(order, i)
            gaps = np.log(sigmas[i - known : i - 1][::-1] / sigmas[i - 1]) / np.log(
                sigma / sigmas[i - 1]
            )
            x = unipc_step(corrected, sigmas[i - 1], sigma, past, [*gaps, 1.0], denoised)
        corrected, past = x, [denoised, *past]
        known = min(order, i + 1)
        gaps = np.log(sigmas[i - known + 1 : i][::-1] / sigma) / np.log(end / sigma)
        x = unipc_step(x, sigma, end, past, gaps, None)
    return x


def unipc_step(x, sigma, end, past, gaps, new):
    hh = np.log(end / sigma)
    differences = [(p - past[0]) / r for p, r in zip(past[1:], gaps, strict=False)]
    differences = differences[: len(gaps) - (new is not None)]
    if new is not None:
        differences.append(new - past[0])
    phi, right = np.expm1(hh) / hh - 1, []
    for i in range(1, len(gaps) + 1):
        right.append(phi * math.factorial(i))
        phi = phi / hh - 1 / math.factorial(i + 1)
    shares = np.linalg.solve(np.vander(gaps, increasing=True).T, right) if len(gaps) else []
    beyond = sum(share * d for share, d in zip(shares, differences, strict=True))
    return end / sigma * x - np.expm1(hh) * past[0] - beyond


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_data_predictions_alone_are_unipc_with_exact_polynomials(order, corrector, x64):
    golden = np.load(GOLDEN)
    sigmas, noise = golden["sigmas"][2:11], golden["z"][:3]
    end = run(per_step([("data", order, corrector)] * 8), denoise_golden, sigmas, noise)
    expected = unipc(order, corrector, sigmas, noise * sigmas[0])
    np.testing.assert_allclose(end, expected, rtol=0, atol=1e-9)


def test_two_data_predictions_are_dpmpp_2m_with_taylors_difference(x64):
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas"]
    x, before = golden["z"] * sigmas[0], None
    for i, (sigma, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised, h = denoise_golden(x, sigma, None), np.log(sigma / end)
        x = end / sigma * x - np.expm1(-h) * denoised
        if i:
            r = np.log(sigmas[i - 1] / sigma) / h
            x = x + (np.expm1(-h) / h + 1) * (denoised - before) / r
        before = denoised
    end = run(per_step([("data", 2)] * 11), denoise_golden, sigmas, golden["z"])
    np.testing.assert_allclose(end, x, rtol=0, atol=1e-10)
    # The published form takes the middle of the step for its end.
    other = run(samplers.dpmpp(), denoise_golden, sigmas, golden["z"])
    assert np.abs(end - other).max() > 1e-2


def test_two_noise_predictions_are_dpm_solver_with_taylors_difference(x64):
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas"]
    x, before = golden["z"] * sigmas[0], None
    for i, (sigma, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        noise, h = (x - denoise_golden(x, sigma, None)) / sigma, np.log(sigma / end)
        x = x - end * np.expm1(h) * noise
        if i:
            r = np.log(sigmas[i - 1] / sigma) / h
            x = x - end * (np.expm1(h) / h - 1) * (noise - before) / r
        before = noise
    end = run(per_step([("noise", 2)] * 11), denoise_golden, sigmas, golden["z"])
    np.testing.assert_allclose(end, x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_noise_is_extrapolated_as_adams_and_bashforth_do_in_log_sigma(order):
    sigmas = samplers.karras(12, final_zero=False)
    tables = per_step([("noise", order)] * 11).tables(sigmas)
    weights = adams_bashforth(sigmas, order, np.log)
    np.testing.assert_allclose(tables.noise[:, : order - 1], weights[:, 1:], rtol=1e-7)
    assert not tables.noise[:, order - 1 :].any() and not tables.data.any()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_steps_that_are_all_alike_are_solvers_that_have_a_name(order, x64):
    golden = np.load(GOLDEN)
    named = {
        ("data", order): samplers.sa_solver(order, 0, tau=0.0),
        ("data", order, True): samplers.sa_solver(order, order, tau=0.0),
    }
    if order > 1:
        named["noise", order] = samplers.dpm_solver(order, singlestep=False)
    for choice, solver in named.items():
        ends = [
            run(one, denoise_golden, golden["sigmas"], golden["z"])
            for one in (per_step([choice] * 11), solver)
        ]
        np.testing.assert_allclose(*ends, rtol=0, atol=1e-11)


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_order_one_is_euler(prediction, x64):
    golden = np.load(GOLDEN)
    end = run(per_step([(prediction, 1)] * 11), denoise_golden, golden["sigmas"], golden["z"])
    np.testing.assert_allclose(end, golden["out/diffsampler/euler"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("repeat", "first", "order"),
    few(
        4,
        [
            ([("data", 1)], [], 1),
            ([("data", 2)], [], 2),
            ([("noise", 2)], [], 2),
            ([("data", 2), ("noise", 2)], [], 2),
            ([("data", 1, True)], [], 2),
            ([("noise", 1, True)], [], 2),
            ([("data", 1, True), ("noise", 2)], [], 2),
            ([("data", 2, True)], [], 3),
            ([("noise", 2, True)], [], 3),
            ([("data", 2, True), ("noise", 3)], [], 3),
            # Corrected steps are good enough starting values.
            ([("data", 3)], [("data", 1, True), ("data", 2, True)], 3),
            ([("noise", 3)], [("noise", 1, True), ("noise", 2, True)], 3),
        ],
    ),
)
def test_error_falls_with_the_order_of_the_lowest_step(repeat, first, order, x64):
    assert per_step(repeat).order == order
    mixture = line_mixture()
    truth = exact_end(mixture, 5.0 * START, 5.0, 0.05)
    counts, errors = np.array([80, 160, 240]), []
    for count in counts:
        choices = (first + repeat * int(count))[: int(count)]
        sigmas = samplers.karras(int(count) + 1, 0.05, 5.0, final_zero=False)
        end = run(per_step(choices), denoise_line, sigmas, START)
        errors.append(np.abs(end - truth).max())
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.2, (slope, errors)


@jax.tree_util.Partial
def denoise_line(x, sigma, condition):
    return line_mixture().denoise(x, sigma)


def test_one_program_serves_every_choice_and_schedule(compilations):
    noise, ends = jnp.ones((2, 3)), []
    run(per_step(MIXED[0]), contract, samplers.karras(8), noise)
    with compilations() as compiled:
        ends += [
            run(per_step([choice] * 8), contract, samplers.karras(8), noise) for choice in MENU
        ]
        ends += [run(per_step(MIXED[1]), contract, samplers.karras(8, rho=5.0), noise)]
    assert not compiled
    # Of the order-1 steps alone, two that are not corrected agree.
    assert len({float(end[0, 0]) for end in ends}) >= len(MENU)


@pytest.mark.parametrize("choices", MIXED)
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(choices):
    answer = jnp.arange(6.0).reshape(2, 3)
    end = run(per_step(choices), lambda x, s, c: answer, samplers.karras(8), jnp.ones((2, 3)))
    np.testing.assert_array_equal(end, answer)


def test_a_step_to_zero_returns_its_prediction_whatever_is_chosen(x64):
    sigmas = samplers.karras(8)
    for choice in (("data", 3, True), ("noise", 3, True)):
        end, kept = run(per_step([choice] * 8), contract, sigmas, START, save="denoised")
        np.testing.assert_array_equal(end, kept["denoised"][-1])
        assert end.dtype == jnp.float64


def test_the_last_step_is_not_corrected(x64):
    sigmas = samplers.karras(9, final_zero=False)
    ends = [
        run(per_step([("data", 2, True)] * 7 + [("noise", 3, last)]), contract, sigmas, START)
        for last in (False, True)
    ]
    np.testing.assert_array_equal(*ends)


def test_a_step_is_one_evaluation():
    solver, calls = per_step(MIXED[0]), []

    def counted(x, sigma, condition):
        jax.debug.callback(lambda: calls.append(1))
        return contract(x, sigma, condition)

    jax.block_until_ready(run(solver, counted, samplers.karras(8), jnp.ones((2, 3))))
    jax.effects_barrier()
    plan = samplers.plan(solver, samplers.karras(8), guidance.unguided())
    assert len(calls) == plan.totals["main"] == 8


def test_samples_do_not_depend_on_their_batch():
    noise, every = jax.random.normal(jax.random.key(0), (5, 3)), keys(5)

    def ends(chosen):
        return samplers.sample(
            contract,
            guidance.unguided(),
            per_step(MIXED[0]),
            samplers.karras(8),
            noise[chosen],
            None,
            every[chosen],
        )

    np.testing.assert_allclose(ends(slice(3, 4))[0], ends(slice(None))[3], atol=1e-5)


def test_choices_come_as_tuples_lists_or_dictionaries():
    tuples = per_step([("noise",), ("data", 3), ("noise", 1, True), ()])
    lists = per_step(json.loads(json.dumps([list(choice) for choice in tuples.choices])))
    named = per_step(
        [
            {"prediction": "noise"},
            {"order": 3},
            {"prediction": "noise", "order": 1, "corrector": True},
            {},
        ]
    )
    assert tuples == lists == named
    assert tuples.choices[3] == Choice("data", 2, False)


def test_renoising_rules_are_refused():
    with pytest.raises(ValueError, match="CFG\\+\\+"):
        samplers.sample(
            lambda x, s, c: x / 2,
            guidance.cfgpp(0.5),
            per_step([("data", 2)] * 4),
            samplers.karras(4),
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            jax.random.key(0),
        )


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: per_step([]), "give one choice a step"),
        (lambda: per_step([("data", 2), ("velocity", 2)]), "choice 1 needs a prediction of data"),
        (lambda: per_step([("data", 4)]), "an order from 1 to 3"),
        (lambda: per_step([("data", True)]), "an order from 1 to 3"),
        (lambda: per_step([("data", 2, "yes")]), "a corrector of True or False"),
        (lambda: per_step([("data", 2, True, 1)]), "choice 0 must be"),
        (lambda: per_step([{"kind": "data"}]), "choice 0 must be"),
        (lambda: per_step([3]), "choice 0 must be"),
        (
            lambda: run(per_step([("data", 2)] * 5), contract, samplers.karras(6), START),
            "5 choices for the 6 steps of this schedule: .* a schedule of 5 steps",
        ),
    ],
)
def test_choices_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
