"""Runs of solvers that add noise, and what they are compared with."""

import jax
import jax.numpy as jnp
import numpy as np
from oracles.analytic import SPREAD, keys
from oracles.multistep_runs import denoise_golden
from oracles.solver_runs import GOLDEN, run

from guidestar import guidance, samplers
from guidestar.core.random import fold_each, unit_noise
from guidestar.samplers.loop import SOLVER_STREAM

MEAN = 0.7


SIGMAS = np.array([5.0, 2.5, 1.5, 0.6, 0.2, 0.05])


def share(sigma):
    """Return how much of x the denoiser of N(0, SPREAD^2) keeps."""
    return SPREAD**2 / (SPREAD**2 + sigma**2)


@jax.tree_util.Partial
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
