"""SDE-DPM-Solver++: its noise, its slopes, and the deterministic solvers it comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD
from oracles.exact_starts import from_exact_states, regressed
from oracles.multistep_runs import plainly
from oracles.noisy_runs import (
    SIGMAS,
    agrees_with_golden,
    belongs_to_the_sample,
    compiles_nothing,
    counts,
    draw_moments,
    ends_in_the_answer,
    follow_by_hand,
    share,
    shifted,
)
from oracles.solver_runs import run
from tables.everyday import few

from guidestar import samplers
from guidestar.samplers.solvers.ancestral import ancestral, dpmpp_2s_ancestral
from guidestar.samplers.solvers.dpmpp import dpmpp
from guidestar.samplers.solvers.dpmpp_sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde


def two_stages(eta, r, s_noise):
    """Return the singlestep solver by hand, the noise of its ends from one path of the SDE."""

    def ancestral_levels(a, b):
        up = min(b, eta * np.sqrt(b**2 * (a**2 - b**2) / a**2))
        return np.sqrt(b**2 - up**2), up

    def by_hand(denoise, sigmas, x, draw):
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            s = np.exp((1 - r) * np.log(a) + r * np.log(b))
            d = denoise(x, a)
            down, up = ancestral_levels(a, s)
            u = down / a * x + (1 - down / a) * d + s_noise * up * draw(i, 0)
            mixed = (1 - 1 / (2 * r)) * d + denoise(u, s) / (2 * r)
            down, up = ancestral_levels(a, b)
            # Noise of variance s^2 (1 - s^2/a^2) in the middle is worth (b/s)^4 of it at the end,
            # where b^2 (1 - b^2/s^2) is added: together b^2 (1 - b^2/a^2).
            old = (b / s) ** 2 * np.sqrt(s**2 * (1 - s**2 / a**2))
            new = np.sqrt(b**2 * (1 - b**2 / s**2))
            z = (old * draw(i, 0) + new * draw(i, 1)) / np.hypot(old, new)
            x = down / a * x + (1 - down / a) * mixed + s_noise * up * z
        return x

    return by_hand


def multistep(order, eta, s_noise, kind):
    """Return the multistep solvers by hand, in differences of predictions."""

    def by_hand(denoise, sigmas, x, draw):
        past, before = [], []
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            d, h = denoise(x, a), np.log(a / b)
            kh = (1 + eta) * h
            phi_1 = 1 - np.exp(-kh)
            x = np.exp(-kh) * x + phi_1 * d
            phi_2 = 1 - phi_1 / kh
            if order == 3 and len(past) > 1:
                r0, r1 = before[0] / h, before[1] / h
                first, second = (d - past[0]) / r0, (past[0] - past[1]) / r1
                slope = first + (first - second) * r0 / (r0 + r1)
                bend = (first - second) / (r0 + r1)
                kappa = 1 if kind == "as_published" else 2
                x = x + phi_2 * slope - kappa * (phi_2 / kh - 0.5) * bend
            elif past:
                weight = phi_1 / 2 if kind == "midpoint" else phi_2
                x = x + weight * (d - past[0]) * h / before[0]
            x = x + s_noise * b * np.sqrt(1 - np.exp(-2 * eta * h)) * draw(i)
            past, before = [d, *past], [h, *before]
        return x

    return by_hand


CASES = {
    "single": (dpmpp_sde(), two_stages(1.0, 0.5, 1.0)),
    "single numbers": (dpmpp_sde(0.7, 0.3, 1.1), two_stages(0.7, 0.3, 1.1)),
    "2m midpoint": (dpmpp_2m_sde(), multistep(2, 1.0, 1.0, "midpoint")),
    "2m taylor": (dpmpp_2m_sde(0.6, "taylor", 1.1), multistep(2, 0.6, 1.1, "taylor")),
    "3m": (dpmpp_3m_sde(), multistep(3, 1.0, 1.0, "exact")),
    "3m numbers": (dpmpp_3m_sde(0.6, 1.1), multistep(3, 0.6, 1.1, "exact")),
    "3m published": (
        dpmpp_3m_sde(1.5, as_published=True),
        multistep(3, 1.5, 1.0, "as_published"),
    ),
}
MAKERS = {"dpmpp_sde": dpmpp_sde, "dpmpp_2m_sde": dpmpp_2m_sde, "dpmpp_3m_sde": dpmpp_3m_sde}


@pytest.mark.parametrize("name", few(3, CASES))
def test_draws_follow_the_steps_by_hand(name, x64):
    follow_by_hand(*CASES[name])


@pytest.mark.longer
@pytest.mark.parametrize("name", few(2, CASES))
def test_samples_have_the_exact_moments(name):
    draw_moments(*CASES[name])


@pytest.mark.parametrize(
    ("solver", "case"),
    [
        (dpmpp_sde(0), "kdiffusion/dpmpp_sde"),
        (dpmpp_2m_sde(0), "kdiffusion/dpmpp_2m_sde"),
        (dpmpp_2m_sde(0), "kdiffusion/dpmpp_2m"),
        (dpmpp_3m_sde(0, as_published=True), "kdiffusion/dpmpp_3m_sde"),
    ],
)
def test_published_implementations_agree_in_float64(solver, case, x64):
    agrees_with_golden(solver, case)


def test_the_published_slip_is_not_the_default():
    sigmas = samplers.karras(8)
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    ends = [
        run(dpmpp_3m_sde(0, as_published=slip), shifted, sigmas, noise) for slip in (False, True)
    ]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


@pytest.mark.longer
@pytest.mark.parametrize(
    ("one", "other", "sigmas"),
    few(
        1,
        [
            (dpmpp_sde(0), dpmpp_2s_ancestral(0), np.append(SIGMAS, 0.0)),
            (dpmpp_2m_sde(0), dpmpp(), np.append(SIGMAS, 0.0)),
            # The first step is an ancestral one, noise included.
            (dpmpp_2m_sde(1), ancestral(1), SIGMAS[:2]),
            (dpmpp_3m_sde(1), ancestral(1), SIGMAS[:2]),
        ],
    ),
)
def test_methods_of_one_kind_agree(one, other, sigmas, x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    longer = np.append(sigmas, sigmas[-1] * np.array([0.5, 0.2])) if len(sigmas) == 2 else sigmas
    kept = [
        run(solver, shifted, longer, noise, save="x")[1]["x"][: len(sigmas)]
        for solver in (one, other)
    ]
    np.testing.assert_allclose(*kept, rtol=1e-11, atol=1e-12)


@pytest.mark.longer
@pytest.mark.parametrize(
    ("solver", "end", "order"),
    few(
        2,
        [
            (dpmpp_sde(0), plainly, 2),
            (dpmpp_sde(0, 0.8), plainly, 2),
            (dpmpp_2m_sde(0), from_exact_states, 2),
            (dpmpp_2m_sde(0, "taylor"), from_exact_states, 2),
            (dpmpp_3m_sde(0), from_exact_states, 3),
            (dpmpp_3m_sde(0, as_published=True), from_exact_states, 2),
        ],
    ),
)
def test_error_falls_with_the_stated_order(solver, end, order, x64):
    assert order == solver.order
    slope, errors = regressed(solver, end)
    assert abs(slope - order) < 0.2, (slope, errors)


def test_the_single_step_solver_is_of_second_order_with_its_noise_too():
    # Weakly: the variance of its samples of Gaussian data. It takes noise in the middle that goes
    # with the noise at the end; with independent draws it would be of first order.
    errors = []
    for count in (80, 160, 320):
        sigmas = samplers.karras(count + 1, 0.05, 5.0, final_zero=False)
        table = dpmpp_sde().tables(sigmas)
        variance = SPREAD**2 + sigmas[0] ** 2
        for i, a in enumerate(sigmas[:-1]):
            first, half = share(a), share(table.middle[i])
            middle = first + table.middle_down[i] / a * (1 - first)
            gain = (
                first + table.down[i] / a * (1 - first) + table.slope[i] * (half * middle - first)
            )
            noise = table.slope[i] * half * table.middle_up[i] + table.up[i] * table.same[i]
            new = table.up[i] ** 2 * (1 - table.same[i] ** 2)
            variance = gain**2 * variance + noise**2 + new
        errors.append(abs(variance - SPREAD**2 - 0.05**2))
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.2)


@pytest.mark.longer
@pytest.mark.parametrize("name", few(2, CASES))
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(name):
    ends_in_the_answer(CASES[name][0])


@pytest.mark.longer
def test_the_plan_counts_what_runs():
    sigmas = np.append(SIGMAS, 0.0)
    assert [counts(make(), sigmas) for make in MAKERS.values()] == [11, 6, 6]


@pytest.mark.parametrize("name", MAKERS)
def test_added_noise_belongs_to_the_sample(name):
    belongs_to_the_sample(MAKERS[name]())


@pytest.mark.parametrize("name", MAKERS)
def test_a_new_number_compiles_nothing(name, compilations):
    make = MAKERS[name]
    solvers = [make(0.5), make(0.0), make(1), make(1, s_noise=1.2)]
    solvers += [make(1, 0.3)] if name == "dpmpp_sde" else []
    compiles_nothing(solvers, compilations)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dpmpp_sde(1.5), "samplers.dpmpp_sde: need 0 <= eta <= 1"),
        (lambda: dpmpp_sde(r=0.0), "0 < r <= 1"),
        (lambda: dpmpp_sde(r=float("nan")), "plain finite number"),
        (lambda: dpmpp_sde(s_noise=-1.0), "s_noise >= 0"),
        (lambda: dpmpp_2m_sde(-0.5), "samplers.dpmpp_2m_sde: need eta >= 0"),
        (lambda: dpmpp_2m_sde(slope="heun"), "midpoint or taylor"),
        (lambda: dpmpp_3m_sde(float("inf")), "plain finite number"),
        (lambda: dpmpp_3m_sde(as_published=1), "True or False"),
        (
            lambda: run(dpmpp_3m_sde(), shifted, SIGMAS[:3], jnp.ones((1, 1))),
            "samplers.dpmpp_3m_sde: .* take 3 steps",
        ),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
