"""Ancestral sampling: its variances, and what every solver that adds noise keeps.

Each solver is followed by hand: once with the very noise it draws, and once in coefficients of
independent unit normal numbers, which gives the exact moments of its samples.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.exact_starts import regressed
from oracles.noisy_runs import (
    MEAN,
    SIGMAS,
    agrees_with_golden,
    belongs_to_the_sample,
    compiles_nothing,
    counts,
    draw_moments,
    ends_in_the_answer,
    follow_by_hand,
    moments,
    share,
)

from guidestar import guidance, samplers
from guidestar.samplers.solvers.ancestral import ancestral, dpm_2_ancestral, dpmpp_2s_ancestral


def variances(a, b):
    """Return the posterior's variance and beta's, from alpha_bar of a variance-preserving step."""
    before, after = 1 / (1 + a**2), 1 / (1 + b**2)
    beta = 1 - before / after
    return beta * (1 - after) / (1 - before) / after, beta / after


def one_stage(noise_variance, eta=1.0):
    """Return ancestral sampling by hand, given the variance of its noise."""

    def by_hand(denoise, sigmas, x, draw):
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            d = denoise(x, a)
            down = np.sqrt(b**2 - eta**2 * variances(a, b)[0])
            x = d + down / a * (x - d) + np.sqrt(noise_variance(*variances(a, b))) * draw(i)
        return x

    return by_hand


def midpoint(eta):
    """Return ancestral DPM-Solver-2 by hand."""

    def by_hand(denoise, sigmas, x, draw):
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            up = eta * np.sqrt(variances(a, b)[0])
            down = np.sqrt(b**2 - up**2)
            middle = np.sqrt(a * down)
            u = x + (middle - a) * (x - denoise(x, a)) / a
            x = x + (down - a) * (u - denoise(u, middle)) / middle + up * draw(i)
        return x

    return by_hand


CASES = {
    "posterior": (ancestral(), one_stage(lambda least, most: least)),
    "share of posterior": (ancestral(0.6), one_stage(lambda least, most: 0.36 * least, 0.6)),
    "beta": (ancestral(variance="beta"), one_stage(lambda least, most: most)),
    "interpolated": (
        ancestral(variance="interpolated", share=0.3),
        one_stage(lambda least, most: np.exp(0.3 * np.log(most) + 0.7 * np.log(least))),
    ),
    "dpm_2": (dpm_2_ancestral(0.8), midpoint(0.8)),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_steps_by_hand(name, x64):
    follow_by_hand(*CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_samples_have_the_exact_moments(name):
    draw_moments(*CASES[name])


def test_moments_are_those_of_the_affine_recursion():
    # What `moments` is trusted with, in the closed form of DDPM on Gaussian data.
    mean, variance = -MEAN, SIGMAS[0] ** 2
    for a, b in zip(SIGMAS[:-1], SIGMAS[1:], strict=True):
        kept = (b / a) ** 2
        gain = kept + (1 - kept) * share(a)
        mean, variance = gain * mean, gain**2 * variance + b**2 * (1 - kept)
    np.testing.assert_allclose(
        moments(CASES["posterior"][1], SIGMAS), (MEAN + mean, variance), rtol=1e-12
    )


def test_interpolation_joins_both_variances():
    for share_, variance in ((0.0, "posterior"), (1.0, "beta")):
        tables = [
            solver.tables(np.append(SIGMAS, 0.0))
            for solver in (
                ancestral(variance="interpolated", share=share_),
                ancestral(variance=variance),
            )
        ]
        for pair in zip(*tables, strict=True):
            np.testing.assert_array_equal(*pair)
    posterior, between, beta = (
        solver.tables(SIGMAS).up
        for solver in (
            ancestral(),
            ancestral(variance="interpolated", share=0.5),
            ancestral(variance="beta"),
        )
    )
    assert (posterior < between).all() and (between < beta).all()
    np.testing.assert_allclose(between**2, posterior * beta, rtol=1e-12)


def test_beta_is_exact_for_data_of_unit_variance():
    # Ho et al. chose it so: on N(0, I) that process keeps its variance at any step.
    table = ancestral(variance="beta").tables(SIGMAS)
    variance = 1 + SIGMAS[:-1] ** 2
    gain = (1 + table.down / SIGMAS[:-1] * SIGMAS[:-1] ** 2) / variance
    np.testing.assert_allclose(gain**2 * variance + table.up**2, 1 + SIGMAS[1:] ** 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("solver", "case"),
    [
        (ancestral(0), "kdiffusion/euler"),
        (dpm_2_ancestral(0), "kdiffusion/dpm_2_ancestral"),
        (dpm_2_ancestral(0), "kdiffusion/dpm_2"),
        (dpm_2_ancestral(0), "diffsampler/dpm_2"),
        (dpmpp_2s_ancestral(0), "kdiffusion/dpmpp_2s_ancestral"),
    ],
)
def test_published_implementations_agree_in_float64(solver, case, x64):
    agrees_with_golden(solver, case)


@pytest.mark.longer
def test_error_falls_with_the_stated_order(x64):
    slope, errors = regressed(dpm_2_ancestral(0))
    assert abs(slope - dpm_2_ancestral().order) < 0.2, (slope, errors)


@pytest.mark.parametrize("name", CASES)
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(name):
    ends_in_the_answer(CASES[name][0])


@pytest.mark.parametrize("name", ["interpolated", "dpm_2"])
def test_added_noise_belongs_to_the_sample(name):
    belongs_to_the_sample(CASES[name][0])


def test_the_plan_counts_what_runs():
    sigmas = np.append(SIGMAS, 0.0)
    assert counts(ancestral(variance="beta"), sigmas) == 6
    assert counts(dpm_2_ancestral(), sigmas) == 11


def test_a_new_number_compiles_nothing(compilations):
    # Not even another variance: it is a number of the same solver.
    within = partial(ancestral, variance="interpolated")
    solvers = [ancestral(0.5), ancestral(0), within(share=0.2), ancestral(variance="beta")]
    compiles_nothing(solvers, compilations)
    compiles_nothing([dpm_2_ancestral(0.5), dpm_2_ancestral(0.25)], compilations)


def test_cfgpp_renoises_with_any_variance_and_not_at_a_midpoint():
    def end(solver):
        return samplers.sample(
            lambda x, s, c: x / 2 if c is None else x / 2 + 1,
            guidance.cfgpp(0.5),
            solver,
            SIGMAS,
            jnp.ones((2, 3)),
            jnp.zeros(2, jnp.int32),
            jax.random.key(0),
        )

    assert np.isfinite(end(ancestral(variance="beta"))).all()
    with pytest.raises(ValueError, match="CFG\\+\\+"):
        end(dpm_2_ancestral())


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ancestral(1.5), "samplers.ancestral: need 0 <= eta <= 1"),
        (lambda: dpm_2_ancestral(-0.1), "samplers.dpm_2_ancestral: need 0 <= eta <= 1"),
        (lambda: jax.jit(lambda eta: ancestral(eta).eta)(0.5), "eta must be a plain number"),
        (lambda: ancestral(variance="gamma"), "posterior, beta, interpolated"),
        (lambda: ancestral(0.5, "beta"), "of eta=1, got eta=0.5"),
        (lambda: ancestral(variance="interpolated"), "give both or neither"),
        (lambda: ancestral(share=0.5), "give both or neither"),
        (lambda: ancestral(variance="interpolated", share=1.5), "0 <= share <= 1"),
        (lambda: ancestral(variance="interpolated", share="half"), "share must be a plain number"),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
