"""Ancestral sampling: its variances, and what every solver that adds noise keeps.

Each solver is followed by hand: once with the very noise it draws, and once in coefficients of
independent unit normal numbers, which gives the exact moments of its samples.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_starts import regressed
from oracles import SPREAD, keys
from test_multistep import denoise_golden
from test_solvers import GOLDEN, run

from guidestar import guidance, samplers
from guidestar.guidance.draws import fold_each, unit_noise
from guidestar.samplers.loop import SOLVER_STREAM
from guidestar.samplers.solvers.ancestral import ancestral, dpm_2_ancestral, dpmpp_2s_ancestral

MEAN = 0.7
SIGMAS = np.array([5.0, 2.5, 1.5, 0.6, 0.2, 0.05])


def share(sigma):
    """Return how much of x the denoiser of N(0, SPREAD^2) keeps."""
    return SPREAD**2 / (SPREAD**2 + sigma**2)


def shifted(x, sigma, condition):
    """Denoise N(MEAN, SPREAD^2) exactly."""
    return MEAN + (x - MEAN) * share(sigma)


def path(by_hand, sigmas, noise, every):
    """Return the end of a run by hand, with the noise that the solver draws."""

    def draw(step, number=None):
        key = fold_each(fold_each(every, step), SOLVER_STREAM)
        key = key if number is None else fold_each(key, number)
        return np.asarray(unit_noise(key, noise.shape[1:], noise.dtype))

    def denoise(x, sigma):
        return shifted(x, sigma, None)

    return by_hand(denoise, sigmas, np.asarray(noise) * sigmas[0], draw)


def moments(by_hand, sigmas):
    """Return mean and variance of the ends of runs by hand, exactly.

    States are coefficients of 1, of the first noise, and of every draw.
    """
    basis = np.eye(2 + 2 * len(sigmas))

    def draw(step, number=0):
        return basis[2 + 2 * step + number]

    def denoise(x, sigma):
        return MEAN * basis[0] + (x - MEAN * basis[0]) * share(sigma)

    end = by_hand(denoise, sigmas, sigmas[0] * basis[1], draw)
    return end[0], np.sum(end[1:] ** 2)


def follow_by_hand(solver, by_hand, sigmas=SIGMAS):
    """Compare a solver with a run by hand, draw by draw; in float64."""
    noise, every = jax.random.normal(jax.random.key(1), (3, 2)), keys(3)
    end = samplers.sample(shifted, guidance.unguided(), solver, sigmas, noise, None, every)
    assert end.dtype == jnp.float64
    np.testing.assert_allclose(end, path(by_hand, sigmas, noise, every), rtol=1e-10, atol=1e-11)


def have_moments(ends, mean, variance):
    """Compare the moments of samples with exact ones, to four standard errors."""
    ends = np.asarray(ends, np.float64)
    np.testing.assert_allclose(ends.mean(), mean, atol=4 * np.sqrt(variance / ends.size))
    np.testing.assert_allclose(ends.var(), variance, rtol=4 * np.sqrt(2 / ends.size))
    # Samples and coordinates are independent of each other.
    for some in (ends[:8], ends.T[:8]):
        correlation = np.corrcoef(some) - np.eye(len(some))
        assert np.abs(correlation).max() < 5 / np.sqrt(some.shape[1])


def draw_moments(solver, by_hand, sigmas=SIGMAS):
    """Compare the moments of many samples with the exact ones of a run by hand."""
    noise = jax.random.normal(jax.random.key(0), (200, 1000))
    have_moments(run(solver, shifted, sigmas, noise), *moments(by_hand, sigmas))


def belongs_to_the_sample(solver, denoise=shifted):
    """Compare a sample alone with the same one in a batch."""
    noise, every = jax.random.normal(jax.random.key(0), (5, 2)), keys(5)

    def ends(chosen):
        chosen = noise[chosen], None, every[chosen]
        return samplers.sample(denoise, guidance.unguided(), solver, SIGMAS, *chosen)

    np.testing.assert_allclose(ends(slice(3, 4))[0], ends(slice(None))[3], atol=1e-5)
    assert np.abs(np.diff(ends(slice(None)), axis=0)).min() > 0


def compiles_nothing(solvers, compilations, denoise=shifted):
    """Run solvers that differ in their numbers, the first of which may compile."""
    noise = jax.random.normal(jax.random.key(0), (2, 3))
    ends = [run(solvers[0], denoise, SIGMAS, noise)]
    with compilations() as compiled:
        ends += [run(solver, denoise, SIGMAS, noise) for solver in solvers[1:]]
    assert not compiled
    for i, end in enumerate(ends[1:]):
        assert np.abs(end - ends[i]).max() > 1e-3


def ends_in_the_answer(solver):
    """Follow a denoiser that always gives one answer, to 0 and to a noise level above."""
    answer, sigmas = jnp.arange(6.0).reshape(2, 3), np.append(SIGMAS, 0.0)
    end, kept = run(solver, lambda x, s, c: answer, sigmas, jnp.ones((2, 3)), save="x")
    np.testing.assert_array_equal(end, answer)
    short = run(solver, lambda x, s, c: answer, SIGMAS, jnp.ones((2, 3)))
    assert np.isfinite(short).all()
    np.testing.assert_allclose(kept["x"][-1], short, atol=1e-5)


def counts(solver, sigmas):
    """Return how often a solver asks its denoiser, which must be what the plan says."""
    calls = []

    def counted(x, sigma, condition):
        jax.debug.callback(lambda: calls.append(1))
        return shifted(x, sigma, condition)

    jax.block_until_ready(run(solver, counted, sigmas, jnp.ones((2, 3))))
    jax.effects_barrier()
    assert samplers.plan(solver, sigmas, guidance.unguided()).totals == {"main": len(calls)}
    return len(calls)


def agrees_with_golden(solver, case):
    """Compare a run on the three-dimensional mixture with a published implementation's."""
    golden = np.load(GOLDEN)
    sigmas = golden["sigmas" if case.startswith("diffsampler") else "sigmas_with_zero"]
    end = run(solver, denoise_golden, sigmas, golden["z"])
    np.testing.assert_allclose(end, golden[f"out/{case}"], atol=1e-9, rtol=0)


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
