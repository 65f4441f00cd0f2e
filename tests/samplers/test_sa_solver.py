"""SA-Solver: its two Adams methods, their common noise, and the methods it contains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.exact_starts import from_exact_states, regressed
from oracles.noisy_runs import (
    SIGMAS,
    agrees_with_golden,
    belongs_to_the_sample,
    compiles_nothing,
    counts,
    draw_moments,
    ends_in_the_answer,
    follow_by_hand,
    shifted,
)
from oracles.solver_runs import run
from tables.everyday import few

from guidestar import samplers
from guidestar.samplers.solvers.ancestral import ancestral
from guidestar.samplers.solvers.dpmpp_sde import dpmpp_2m_sde, dpmpp_3m_sde
from guidestar.samplers.solvers.sa_solver import sa_solver


def weights(h, k, nodes, few_step):
    """Return the weights of predictions at nodes, from moments of the exponential."""
    moment = [(1 - np.exp(-k * h)) / k]
    for power in range(1, len(nodes)):
        moment.append((h**power - power * moment[-1]) / k)
    if few_step and len(nodes) == 2:
        moment[1] = h**2 / 2
    # Exact for every power of u there are nodes for.
    powers = np.vander(np.asarray(nodes, np.float64), increasing=True).T
    return k * np.linalg.solve(powers, moment)


def by_hand(q, p, tau, few_step=False, low=0.0, high=np.inf):
    """Return SA-Solver by hand: it keeps the state before the step and corrects all of it anew."""

    def follow(denoise, sigmas, x, draw):
        known, last = [], None
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            newest = denoise(x, a)
            if last and p:
                # The step before, over again: with its own noise, and the prediction at its end.
                before, h, k, noise, places = last
                nodes = [h, *places[:p]]
                parts = zip(weights(h, k, nodes, few_step), [newest, *known], strict=False)
                x = np.exp(-k * h) * before + sum(w * d for w, d in parts) + noise
            known = [newest, *known]
            h, k = np.log(a / b), 1 + (tau**2 if low < a <= high else 0)
            places = [np.log(a / s) for s in sigmas[: i + 1][::-1]]
            noise = b * np.sqrt(1 - np.exp(-2 * (k - 1) * h)) * draw(i)
            parts = zip(weights(h, k, places[:q], few_step), known, strict=False)
            last = x, h, k, noise, places
            x = np.exp(-k * h) * x + sum(w * d for w, d in parts) + noise
        return x

    return follow


# Predictor and corrector orders, tau, few_step, window.
CASES = {
    "default": (2, 1, 1.0, False, 0.0, np.inf),
    "predictor alone": (3, 0, 0.8, False, 0.0, np.inf),
    "corrector of more": (1, 2, 1.2, False, 0.0, np.inf),
    "three and three": (3, 3, 1.0, False, 0.0, np.inf),
    "window": (2, 2, 1.3, False, 0.2, 2.5),
    "few steps": (2, 1, 0.7, True, 0.0, np.inf),
    "few steps in a window": (2, 2, 0.7, True, 0.3, 3.0),
}


def made(q, p, tau, few_step, low, high):
    return sa_solver(q, p, tau, (low, high), few_step=few_step)


@pytest.mark.longer
@pytest.mark.parametrize("name", few(2, CASES))
def test_draws_follow_the_steps_by_hand(name, x64):
    # By hand the corrected step has the predicted one's noise; the solver never sees it twice.
    follow_by_hand(made(*CASES[name]), by_hand(*CASES[name]))


@pytest.mark.parametrize("name", ["default", "predictor alone", "window", "few steps"])
def test_samples_have_the_exact_moments(name):
    draw_moments(made(*CASES[name]), by_hand(*CASES[name]))


@pytest.mark.parametrize(
    ("solver", "other"),
    [
        (sa_solver(1, 0, 0.0), samplers.euler()),
        (sa_solver(1, 0, 1.0), ancestral()),
        (sa_solver(2, 0, 1.0), dpmpp_2m_sde(1, "taylor")),
        (sa_solver(2, 0, 0.0), dpmpp_2m_sde(0, "taylor")),
        (sa_solver(3, 0, 0.0), dpmpp_3m_sde(0)),
        (sa_solver(3, 0, np.sqrt(0.6)), dpmpp_3m_sde(0.6)),
        (sa_solver(tau_range=(10.0, 20.0)), sa_solver(tau=0)),
    ],
)
def test_methods_of_one_kind_agree_noise_included(solver, other, x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    ends = [run(s, shifted, np.append(SIGMAS, 0.0), noise) for s in (solver, other)]
    np.testing.assert_allclose(*ends, rtol=1e-12, atol=1e-13)


def unipc(order, denoise, sigmas, x):
    """Return UniPC by hand, its linear system solved exactly for predictor and corrector."""

    def solved(h, nodes, differences):
        # b_i = i! phi_(i+1)(-h) of a system in powers of r_j; B, which would cancel, is 1.
        r, b, phi, factorial = np.asarray(nodes) / h, [], np.expm1(-h) / -h - 1, 1
        for i in range(1, len(r) + 1):
            factorial *= i
            b.append(factorial * phi / -h)
            phi = phi / -h - 1 / (factorial * (i + 1))
        rho = np.linalg.solve(np.vander(r, increasing=True).T, b)
        return sum(p * d / s for p, d, s in zip(rho, differences, r, strict=True))

    known = [denoise(x, sigmas[0])]
    for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        h, first = np.log(a / b), known[0]
        places = [np.log(a / s) for s in sigmas[: i + 1][::-1]]
        euler = b / a * x - np.expm1(-h) * first

        def differences(count, known=known, first=first):
            return [d - first for d in known[1:count]]

        x = euler
        if len(known) > 1 and order > 1:
            x = euler + h * solved(h, places[1:order], differences(order))
        if i + 2 == len(sigmas):
            return x
        newest = denoise(x, b)
        x = euler + h * solved(h, [*places[1:order], h], [*differences(order), newest - first])
        known = [newest, *known]
    return x


@pytest.mark.parametrize("order", [1, 2, 3])
def test_without_noise_it_is_unipc_in_exact_form(order, x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    end = run(sa_solver(order, order, 0.0), shifted, SIGMAS, noise)
    hand = unipc(order, lambda x, s: shifted(x, s, None), SIGMAS, np.asarray(noise) * SIGMAS[0])
    np.testing.assert_allclose(end, hand, rtol=1e-10, atol=1e-12)


def test_the_published_unipc_agrees_in_float64(x64):
    # Its B(h) = h weighs the slope through two predictions as `few_step` does.
    agrees_with_golden(sa_solver(1, 1, 0.0, few_step=True), "diffsampler/unipc_bh1_order1")


@pytest.mark.longer
@pytest.mark.parametrize(
    ("solver", "order"),
    few(
        2,
        [
            (sa_solver(2, 0, 0), 2),
            (sa_solver(2, 1, 0), 2),
            (sa_solver(2, 1, 0, few_step=True), 2),
            (sa_solver(2, 2, 0), 3),
            (sa_solver(3, 2, 0), 3),
            (sa_solver(3, 3, 0), 4),
        ],
    ),
)
def test_error_falls_with_the_stated_order(solver, order, x64):
    assert order == solver.order
    # Of predictor 3 and corrector 2, what falls with the fourth order is most of it until late.
    counts = (90, 180, 360) if solver.predictor_order < 3 else (360, 720)
    slope, errors = regressed(solver, from_exact_states, counts)
    assert abs(slope - order) < 0.2, (slope, errors)


def test_tau_holds_above_the_low_end_and_up_to_the_high_one():
    table = sa_solver(tau=1.0, tau_range=(0.6, 2.5)).tables(SIGMAS)
    np.testing.assert_array_equal(table.noise > 0, [False, True, True, False, False])
    ratio = SIGMAS[1:] / SIGMAS[:-1]
    np.testing.assert_allclose(table.keep, ratio ** np.array([1, 2, 2, 1, 1]), rtol=1e-12)


def test_no_step_to_zero_has_noise_or_is_corrected_beyond():
    table = sa_solver(3, 3).tables(np.append(SIGMAS, 0.0))
    assert all(np.isfinite(part).all() for part in table)
    assert table.noise[-1] == table.keep[-1] == 0
    assert not table.ahead[-1].any() and not table.correct[0].any()


@pytest.mark.parametrize("name", few(2, CASES))
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(name):
    ends_in_the_answer(made(*CASES[name]))


def test_the_plan_counts_what_runs():
    assert counts(sa_solver(), np.append(SIGMAS, 0.0)) == 6


def test_added_noise_belongs_to_the_sample():
    belongs_to_the_sample(sa_solver())


@pytest.mark.longer
def test_a_new_number_compiles_nothing(compilations):
    solvers = [sa_solver(), sa_solver(tau=0), sa_solver(tau=0.5), sa_solver(tau_range=(0.2, 3.0))]
    compiles_nothing(solvers, compilations)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sa_solver(0), "order must be an integer from 1 to 4"),
        (lambda: sa_solver(2, 5), "order must be an integer from 1 to 4"),
        (lambda: sa_solver(tau=-1.0), "need tau >= 0"),
        (lambda: sa_solver(tau=float("nan")), "plain finite number"),
        (lambda: sa_solver(tau_range=(1.0, 0.5)), "0 <= low < high"),
        (lambda: sa_solver(tau_range=(float("nan"), 0.5)), "0 <= low < high"),
        (lambda: sa_solver(few_step=1), "True or False"),
        (
            lambda: run(sa_solver(3, 3), shifted, SIGMAS[:3], jnp.ones((1, 1))),
            "samplers.sa_solver: .* take 3 steps",
        ),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
