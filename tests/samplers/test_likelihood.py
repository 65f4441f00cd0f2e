"""Log-likelihoods by the flow, against exact densities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import (
    MEANS,
    SPREAD,
    Labelled,
    gaussian,
    keys,
    mixture_denoiser,
    two_classes,
    weak,
)
from oracles.solver_runs import line_mixture
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.samplers.likelihood import bits_per_dimension, log_likelihood

LABELS = jnp.array([0, 1, 0, 1])


def grid(steps, low=0.05, high=80.0):
    return np.geomspace(high, low, steps + 1)


def points(count=4, dim=2, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, dim)) * 0.8)


def normal(x, mean, deviation):
    """Return the log-density of independent normal coordinates."""
    z = (np.asarray(x) - mean) / deviation
    each = -(z**2) / 2 - np.log(deviation) - math.log(2 * math.pi) / 2
    return each.reshape(len(x), -1).sum(axis=1)


def along_the_flow(x, mean, c, sigmas):
    """Return the exact density of what Gaussian data's flow makes of ``N(0, sigma_max^2)``."""
    stretch = np.sqrt((c**2 + sigmas[0] ** 2) / (c**2 + sigmas[-1] ** 2)) * np.ones(x.shape)
    end = mean + stretch * (x - mean)
    return normal(end, 0.0, sigmas[0]) + np.log(stretch).reshape(len(x), -1).sum(axis=1)


@jax.tree_util.Partial
def plain(x, sigma, condition):
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def density(denoise, sigmas, x, condition=None, rule=None, key=None, **options):
    rule, key = rule or guidance.unguided(), keys(len(x)) if key is None else key
    return log_likelihood(denoise, rule, sigmas, x, condition, key, **options)


def test_gaussian_data_has_its_own_density(x64):
    # All that is missing is what the prior, of deviation 2000, leaves out of the data.
    x = points(5, 3)
    got = density(plain, grid(2000, high=2000.0), x, trace="exact")
    np.testing.assert_allclose(got, normal(x, 0.0, math.hypot(SPREAD, 0.05)), atol=1e-4)


def test_its_trace_is_exact_with_a_single_probe_where_data_is_isotropic(x64):
    # v^T v = dim for random signs: no probe differs from another.
    x = points(5, 3)
    exact = density(plain, grid(20), x, trace="exact")
    np.testing.assert_allclose(density(plain, grid(20), x), exact, rtol=1e-12)
    assert np.ptp(exact) > 0.1


def test_a_condition_chooses_the_density(x64):
    x = points(4, 3)
    got = density(Labelled(gaussian), grid(400), x, LABELS)
    mean = np.asarray(MEANS)[LABELS][:, None]
    np.testing.assert_allclose(got, along_the_flow(x, mean, SPREAD, grid(1)), atol=2e-3)


@pytest.mark.longer
def test_a_mixture_has_its_own_density(x64):
    *_, both = two_classes()
    x = both.sample(jax.random.key(0), 8, 0.05)
    got = density(lambda x, s, c: both.denoise(x, s), grid(400, high=400.0), x, trace="exact")
    np.testing.assert_allclose(got, both.log_density(x, 0.05), atol=1e-3)


@pytest.mark.longer
def test_the_error_falls_with_the_square_of_the_steps(x64):
    mixture = line_mixture()
    x = jnp.array([[-1.2], [-0.3], [0.4], [1.5]])

    def denoise(x, sigma, condition):
        return mixture.denoise(x, sigma)

    def end(steps):
        return density(
            denoise, samplers.karras(steps + 1, 0.05, 5.0, final_zero=False), x, trace="exact"
        )

    # Against the flow's own limit: at 5 the data is no noise alone.
    limit, counts = end(4000), np.array([40, 80, 160, 320])
    errors = [np.abs(end(int(count)) - limit).max() for count in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.2, (slope, errors)


def test_the_volume_is_that_of_the_flow(x64):
    # sum_i log sqrt((c_i^2 + sigma_max^2) / (c_i^2 + sigma^2)) and the end, from one diagonal.
    c = np.array([0.1, 1.0, 6.0])
    sigmas, x = grid(800, 0.5, 8.0), points(3, 3)
    got = density(lambda x, s, _: x * c**2 / (c**2 + s**2), sigmas, x, trace="exact")
    np.testing.assert_allclose(got, along_the_flow(x, 0.0, c, sigmas), atol=2e-5)


def rotated(dim=4, seed=3):
    """Return a denoiser whose Jacobian has large entries beside the diagonal."""
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    c = np.array([0.1, 0.4, 2.0, 9.0])

    def denoise(x, sigma, condition):
        return ((x @ vectors) * (c**2 / (c**2 + sigma**2))) @ vectors.T

    return denoise


@pytest.mark.longer
@pytest.mark.parametrize("probes", few(1, [1, 3]))
def test_hutchinson_is_unbiased_and_its_variance_falls_with_the_probes(probes):
    x = jnp.broadcast_to(points(1, 4), (4000, 4))
    sigmas = grid(6, 0.5, 20.0)
    exact = density(rotated(), sigmas, x[:1], trace="exact")[0]
    draws = np.asarray(density(rotated(), sigmas, x, probes=probes), np.float64)
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - exact) < 4 * error
    single = np.std(density(rotated(), sigmas, x)) / math.sqrt(probes)
    np.testing.assert_allclose(draws.std(), single, rtol=0.1)
    assert single > 0.05


def test_probes_are_drawn_anew_in_every_evaluation():
    # v^T J v of random signs has the variance 2 sum_(i != j) J_ij^2, and all evaluations' add up.
    sigmas, x = grid(6, 0.5, 20.0), jnp.broadcast_to(points(1, 4), (4000, 4))
    jacobians = [rotated()(np.eye(4), s, None) for s in sigmas]
    variances = np.array([2 * np.sum(np.square(j - np.diag(np.diag(j)))) for j in jacobians])
    steps = np.log(sigmas[:-1] / sigmas[1:])
    total = np.sum(steps**2 * (variances[:-1] + variances[1:]) / 4)
    np.testing.assert_allclose(np.std(density(rotated(), sigmas, x)), math.sqrt(total), rtol=0.06)


@pytest.mark.longer
def test_a_sample_does_not_depend_on_its_batch():
    x, each = points(5, 4), keys(5)
    batch = density(rotated(), grid(6), x, key=each)
    alone = density(rotated(), grid(6), x[3:4], key=each[3:4])
    np.testing.assert_allclose(alone[0], batch[3], rtol=1e-5)
    assert np.abs(density(rotated(), grid(6), x, key=keys(5, seed=1)) - batch).max() > 1e-3


@pytest.mark.longer
def test_scale_one_is_no_guidance_and_others_have_a_density_of_their_own(x64):
    x, denoise, sigmas = points(), mixture_denoiser(), grid(40)
    given = density(denoise, sigmas, x, LABELS, trace="exact")
    one = density(denoise, sigmas, x, LABELS, guidance.cfg(1.0), trace="exact")
    np.testing.assert_allclose(one, given, rtol=1e-10)
    null = density(denoise, sigmas, x, jnp.full(4, 2), trace="exact")
    zero = density(denoise, sigmas, x, LABELS, guidance.cfg(0.0), trace="exact")
    np.testing.assert_allclose(zero, null, rtol=1e-10)


def test_guidance_between_equal_spreads_shifts_the_mean(x64):
    # D = (1 - k) m + k x for each label: the guided flow is that of a mean moved by the scale.
    x, denoise, sigmas = points(4, 2), Labelled(gaussian), grid(400)
    rule, mean = guidance.cfg(2.5), np.asarray(MEANS)[LABELS][:, None]
    got = density(denoise, sigmas, x, LABELS, rule)
    np.testing.assert_allclose(got, along_the_flow(x, 2.5 * mean, SPREAD, sigmas), atol=4e-3)
    # Outside its interval it does not.
    got = density(denoise, sigmas, x, LABELS, guidance.between(rule, 90.0, 100.0))
    np.testing.assert_allclose(got, along_the_flow(x, mean, SPREAD, sigmas), atol=2e-3)


@pytest.mark.longer
def test_two_evaluations_a_step_and_the_rule_of_the_step_down():
    asked = []

    def denoise(x, sigma, condition):
        jax.debug.callback(lambda s: asked.append(float(s)), sigma)
        return gaussian(x, sigma, condition)

    rule = guidance.between(guidance.cfg(2.0), 1.0, 3.0)
    x = jnp.asarray(points(), jnp.float32)
    density(denoise, [4.0, 2.0, 1.0, 0.5], x, LABELS, rule, probes=3).block_until_ready()
    jax.effects_barrier()
    # Both networks calls of the middle step at both its ends; probes share the prediction.
    assert sorted(asked) == [0.5, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0]


def test_images_and_several_networks():
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 1)) * SPREAD
    networks = {"main": Labelled(gaussian), "guide": weak}
    rule = guidance.autoguidance(1.5)
    flat = {
        "main": lambda x, s, c: gaussian(x, s, c),
        "guide": lambda x, s, c: weak(x, s, c),
    }
    got = density(networks, grid(20), x, LABELS, rule, trace="exact", branches="sequential")
    same = density(flat, grid(20), x.reshape(4, 4), LABELS, rule, trace="exact")
    np.testing.assert_allclose(got, same, rtol=1e-4)
    assert got.shape == (4,) and got.dtype == jnp.float32


def test_new_numbers_compile_nothing(compilations):
    x, denoise = jnp.asarray(points(), jnp.float32), Labelled(gaussian)
    first = density(denoise, grid(5), x, LABELS, guidance.cfg(2.0))
    with compilations() as compiled:
        other = density(denoise, grid(5, high=60.0), x, LABELS, guidance.cfg(3))
    assert not compiled
    assert np.abs(first - other).max() > 0


def test_bits_of_values_that_are_all_as_likely():
    # Uniform on [-1, 1]: each of 256 levels takes 8 bits.
    flat = -math.prod((4, 4, 3)) * math.log(2.0) * np.ones(2)
    np.testing.assert_allclose(bits_per_dimension(flat, (4, 4, 3)), 8.0)
    # Uniform on [0, 1] in 32 levels: 5 bits.
    np.testing.assert_allclose(bits_per_dimension(np.zeros(2), (7,), levels=32, span=1.0), 5.0)
    # Natural logarithms become bits per value.
    change = bits_per_dimension(np.array([0.0, 1.0]), (5,))
    np.testing.assert_allclose(change[0] - change[1], 1 / (5 * math.log(2)))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(sigmas=[2.0, 1.0, 0.0]),
            r"samplers.log_likelihood: the schedule ends in 0.*sigmas\[:-1\]",
        ),
        (dict(sigmas=[1.0, 2.0]), "samplers.log_likelihood: sigmas must decrease"),
        (dict(trace="both"), "trace is hutchinson or exact"),
        (dict(probes=0), "probes must be a positive integer"),
        (dict(trace="exact", probes=2), "the exact trace takes no probes"),
        (dict(branches="parallel"), "fused or sequential"),
        (dict(x=jnp.ones((4, 2), int)), "x must be floating point"),
        (dict(key=keys(3)), "one per sample"),
        (dict(rule=guidance.autoguidance(2.0)), "network named 'guide'"),
        (dict(rule=guidance.apg(2.0)), "the rule apg carries a state"),
        (dict(rule=guidance.higs(guidance.cfg(2.0))), "the rule higs carries a state"),
        (dict(rule=guidance.cfgpp(0.5)), r"the rule cfgpp .*CFG\+\+"),
    ],
)
def test_bad_calls_are_refused(change, message):
    arguments = dict(
        denoise=gaussian,
        rule=guidance.unguided(),
        sigmas=[2.0, 1.0],
        x=jnp.asarray(points(), jnp.float32),
        condition=LABELS,
        key=keys(4),
    )
    with pytest.raises(ValueError, match=message):
        log_likelihood(**(arguments | change))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(levels=0), "levels must be"),
        (dict(levels=2.5), "levels"),
        (dict(span=0.0), "span > 0"),
    ],
)
def test_scales_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"samplers.bits_per_dimension: .*{message}"):
        bits_per_dimension(np.zeros(2), (4,), **options)
