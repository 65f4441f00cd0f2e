"""Estimated statistics of guided denoisers against closed forms, and what is refused."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD, Labelled, gaussian, mixture_denoiser, two_classes, weak

from guidestar import guidance, samplers
from guidestar.models.exact.mixture import GaussianMixture
from guidestar.samplers.solvers.dpm_solver_v3 import dpm_solver_v3
from guidestar.samplers.tuning.calibration import calibrate

KEY, DATA = jax.random.key(3), jax.random.key(4)
LOW, HIGH = 0.02, 20.0
SIGMAS = np.exp(np.linspace(np.log(HIGH), np.log(LOW), 31))
MEAN = np.array([0.3, -1.0])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.5]])


@cache
def mixed():
    """Return one mixture denoiser for all tests, which compile what runs it once."""
    return mixture_denoiser()


def estimate(denoise, rule=None, x0=None, condition=None, key=KEY, **options):
    options = dict(sigma_min=LOW, sigma_max=HIGH, intervals=30, samples=64, batch=64) | options
    rule = rule or guidance.unguided()
    return calibrate(denoise, rule, x0, condition, key, **options)


def fields(statistics):
    return statistics.l, statistics.s, statistics.b


def elementwise(mean, spread):
    def denoise(x, sigma, condition):
        return mean + (x - mean) * spread**2 / (spread**2 + sigma**2)

    return denoise


@pytest.mark.longer
@pytest.mark.parametrize("known", ["data", "nothing"])
def test_independent_gaussian_data_have_their_closed_form(known, x64):
    mean, spread = np.array([0.7, -1.2, 0.0]), np.array([0.5, 1.0, 2.0])
    x0 = None
    if known == "data":
        x0 = mean + spread * jax.random.normal(DATA, (100, 3))
    statistics = estimate(elementwise(mean, spread), x0=x0, shape=(3,), intervals=120, samples=8)
    sigma = np.exp(-statistics.lambdas)[:, None]
    l = sigma**2 / (sigma**2 + spread**2)
    # Random signs see a diagonal without error; the slope of l is a difference of two intervals.
    np.testing.assert_allclose(statistics.l, l, atol=1e-12)
    np.testing.assert_array_equal(statistics.s, 0)
    np.testing.assert_allclose(statistics.b, 2 * l * (1 - l) * mean, atol=6e-3)
    assert np.abs(statistics.b[1:-1] - (2 * l * (1 - l) * mean)[1:-1]).max() < 1e-3


@pytest.mark.longer
def test_correlated_gaussian_data_agree_within_standard_errors(x64):
    count = 4096
    x0 = GaussianMixture([1.0], MEAN[None], COVARIANCE[None]).sample(DATA, count)

    def denoise(x, sigma, condition):
        share = COVARIANCE @ jnp.linalg.inv(COVARIANCE + sigma**2 * jnp.eye(2))
        return MEAN + (x - MEAN) @ share.T

    statistics = estimate(denoise, x0=x0, samples=count, batch=1024)
    l_slopes = np.gradient(statistics.l, statistics.lambdas, axis=0, edge_order=2)
    off = []
    for i, sigma in enumerate(np.exp(-statistics.lambdas)):
        spread = COVARIANCE + sigma**2 * np.eye(2)
        noise = sigma**2 * np.linalg.inv(spread)
        np.testing.assert_allclose(
            statistics.l[i], np.diag(noise), atol=4 * np.abs(noise[0, 1]) / np.sqrt(count)
        )
        # f and f' are linear in x - MEAN, here with the l and its slope that were found.
        l, l_slope = np.diag(statistics.l[i]), np.diag(l_slopes[i])
        f = noise - l
        f_slope = -2 * noise @ (np.eye(2) - noise) - noise @ noise - l_slope + l @ noise
        variance, common = np.diag(f @ spread @ f.T), np.diag(f @ spread @ f_slope.T)
        rest = np.diag(f_slope @ spread @ f_slope.T) - common**2 / variance
        s = common / variance
        b = -(l_slope @ MEAN) + s * (l @ MEAN)
        error = np.sqrt(rest / variance / count)
        off += [(statistics.s[i] - s) / error]
        away = np.sqrt(rest / count * (1 + (l @ MEAN) ** 2 / variance))
        off += [(statistics.b[i] - b) / away]
    assert np.abs(off).max() < 4
    # Neither are the errors assumed too large.
    assert np.std(off) > 0.3


@pytest.mark.longer
def test_they_belong_to_the_guided_denoiser(x64):
    # Guided towards label 0: Gaussian data with the mean -3 that classifier-free guidance makes.
    rule, labels = guidance.cfg(3.0), jnp.zeros(5, jnp.int32)
    for shape, x0 in (((2, 2, 1), None), (None, jax.random.normal(DATA, (5, 2, 2, 1)) / 2 - 1)):
        statistics = estimate(Labelled(gaussian), rule, x0, labels, shape=shape, samples=12)
        assert statistics.shape == (2, 2, 1)
        sigma = np.exp(-statistics.lambdas)[1:-1, None, None, None]
        l = sigma**2 / (sigma**2 + SPREAD**2)
        expected = np.broadcast_to(2 * l * (1 - l) * -3, statistics.b[1:-1].shape)
        np.testing.assert_allclose(statistics.b[1:-1], expected, atol=0.06)


@pytest.mark.longer
def test_what_a_rule_does_at_some_noise_levels_alone_is_seen_there_alone(x64):
    labels = jnp.zeros(4, jnp.int32)
    inside = guidance.between(guidance.cfg(3.0), 0.2, 2.0)
    x0 = jnp.linspace(-2, 1, 12).reshape(4, 3)
    partly, plain, guided = (
        estimate(Labelled(gaussian), rule, x0, labels, samples=8).b
        for rule in (inside, guidance.unguided(), guidance.cfg(3.0))
    )
    holds = (SIGMAS > 0.2) & (SIGMAS <= 2.0)
    np.testing.assert_allclose(partly[holds], guided[holds], atol=1e-12)
    np.testing.assert_allclose(partly[~holds], plain[~holds], atol=1e-12)
    assert np.abs(guided - plain).max() > 0.5


@pytest.mark.longer
def test_states_are_noised_data_or_the_denoisers_own(x64):
    _, _, both = two_classes()
    denoise, options = mixed(), dict(samples=512, batch=512)
    own = estimate(denoise, shape=(2,), **options)
    given = estimate(denoise, x0=both.sample(DATA, 512), **options)
    # Data of one class are not what this denoiser's flow is made of.
    elsewhere = estimate(denoise, x0=two_classes()[0].sample(DATA, 512), **options)
    apart, off = (
        [np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(fields(one), fields(given), strict=True)]
        for one in (own, elsewhere)
    )
    assert all(0 < one < most for one, most in zip(apart, (0.02, 0.1, 0.02), strict=True))
    assert off[2] > 4 * apart[2]


@pytest.mark.longer
def test_data_drawn_from_the_same_key_do_not_share_its_noise(x64):
    x0 = two_classes()[2].sample(KEY, 512)
    one, other = (estimate(mixed(), x0=x0, key=key, samples=512, batch=512) for key in (KEY, DATA))
    assert np.sqrt(np.mean((one.l - other.l) ** 2)) < 0.02


@pytest.mark.longer
def test_trajectories_are_finer_than_a_coarse_grid(x64):
    # Four intervals: were they four steps, the spread at the lowest levels would be far off.
    coarse = estimate(mixed(), shape=(2,), intervals=4)
    fine = estimate(mixed(), shape=(2,), intervals=120)
    np.testing.assert_allclose(coarse.l, fine.l[::30], atol=2e-3)


@pytest.mark.longer
@pytest.mark.parametrize("known", ["data", "nothing"])
def test_they_depend_on_the_key_and_not_on_the_batch(known, x64):
    x0 = two_classes()[2].sample(DATA, 7) if known == "data" else None
    options = dict(x0=x0, shape=(2,), samples=10, intervals=4)
    whole = estimate(mixed(), batch=10, **options)
    parts = estimate(mixed(), batch=5, **options)
    other = estimate(mixed(), key=jax.random.key(5), batch=10, **options)
    for one, same, another in zip(fields(whole), fields(parts), fields(other), strict=True):
        np.testing.assert_allclose(one, same, atol=1e-9)
        assert np.abs(one - another).max() > 1e-3


@pytest.mark.longer
def test_rows_of_data_and_conditions_go_together(x64):
    # Each label's data lie around its mean: taken with another's condition, b would be 0.
    labels = jnp.array([0, 0, 1, 0, 0])
    x0 = jnp.where(labels == 0, -1.0, 1.0)[:, None] * jnp.ones((5, 3))
    found = []

    def denoise(x, sigma, condition):
        found.append(x.shape)
        return gaussian(x, sigma, condition)

    statistics = estimate(denoise, x0=x0, condition=labels, samples=10, batch=4)
    # Four fifths at -1 and one at 1.
    sigma = np.exp(-statistics.lambdas)[15]
    l = sigma**2 / (sigma**2 + SPREAD**2)
    f, f_slope = -l * np.array([-1, 1]), 2 * l * (1 - l) * np.array([-1, 1])
    np.testing.assert_allclose(statistics.s[15], (f_slope / f).mean(), atol=0.02)
    np.testing.assert_allclose(statistics.b[15], 0, atol=0.02)
    assert {shape[0] for shape in found} == {4, 2}


def test_float32_is_the_default_and_sees_no_slope_in_rounding():
    mean, spread = np.float32([0.7, -1.2, 0.0]), np.float32([0.5, 1.0, 2.0])
    statistics = estimate(elementwise(mean, spread), shape=(3,), sigma_max=80.0, sigma_min=0.002)
    assert statistics.l.dtype == np.float32
    np.testing.assert_array_equal(statistics.s, 0)
    for x in fields(statistics):
        assert np.isfinite(x).all()


def test_a_constant_prediction_has_statistics():
    # D = 0.3: f = x - D with l = 1 and so f = -D, constant.
    answer = estimate(lambda x, s, c: jnp.full_like(x, 0.3), shape=(2,))
    np.testing.assert_allclose(answer.l, 1, atol=1e-6)
    np.testing.assert_array_equal(answer.s, 0)
    np.testing.assert_allclose(answer.b, 0, atol=1e-5)


@pytest.mark.longer
def test_networks_by_name_and_branches_in_turn(x64):
    networks, labels = {"main": Labelled(gaussian), "guide": Labelled(weak)}, jnp.array([0, 1])
    every = []
    for branches in ("fused", "sequential"):
        for rule in (guidance.autoguidance(2.0), guidance.cfg(2.0)):
            options = dict(shape=(2,), intervals=4, samples=4, branches=branches)
            every.append(estimate(networks, rule, None, labels, **options))
    for fused, sequential in ((0, 2), (1, 3)):
        np.testing.assert_allclose(every[fused].b, every[sequential].b, atol=1e-10)
    assert np.abs(every[0].l - every[1].l).max() > 0.01


@pytest.mark.longer
def test_a_new_scale_compiles_nothing(compilations):
    labels, networks = jnp.zeros(2, jnp.int32), Labelled(gaussian)
    options = dict(shape=(2,), intervals=4, samples=8, batch=8)
    first = estimate(networks, guidance.cfg(2.0), None, labels, **options)
    with compilations() as compiled:
        second = estimate(networks, guidance.cfg(3.0), None, labels, **options)
    assert not compiled
    assert np.abs(first.b - second.b).max() > 0.1


@pytest.mark.longer
def test_guided_statistics_help_a_guided_denoiser(x64):
    denoise, rule = mixed(), guidance.cfg(2.0)
    labels, noise = jnp.array([0, 1, 1, 0]), np.random.default_rng(0).normal(size=(4, 2))
    statistics = estimate(denoise, rule, None, labels, shape=(2,), samples=512, batch=512)

    def end(solver, steps):
        sigmas = samplers.log_snr(steps + 1, LOW, HIGH, final_zero=False)
        return samplers.sample(denoise, rule, solver, sigmas, noise, labels, KEY)

    truth = end(samplers.heun(), 2000)

    def error(solver):
        return np.sqrt(np.mean((end(solver, 10) - truth) ** 2))

    assert error(dpm_solver_v3(statistics)) < 0.7 * error(samplers.dpmpp())


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: estimate(gaussian, guidance.apg(2.0, momentum=0.5), shape=(2,)),
            "remembers earlier",
        ),
        (lambda: estimate(gaussian, guidance.momentum(0.5), shape=(2,)), "takes a rule here"),
        (
            lambda: estimate(gaussian, guidance.cfgpp(0.5), None, jnp.zeros(2, int), shape=(2,)),
            "CFG",
        ),
        (lambda: estimate(gaussian, guidance.autoguidance(2.0), shape=(2,)), "named 'guide'"),
        (lambda: estimate(gaussian), "shape of one sample"),
        (lambda: estimate(gaussian, x0=jnp.ones((4, 2)), shape=(3,)), "leave shape out"),
        (lambda: estimate(gaussian, x0=jnp.ones((4, 2), int)), "floating-point data"),
        (lambda: estimate(gaussian, x0=jnp.ones((0, 2))), "floating-point data"),
        (
            lambda: estimate(gaussian, x0=jnp.ones((4, 2)), condition=jnp.zeros(3, int)),
            "lengths .*3.*4",
        ),
        (lambda: estimate(gaussian, shape=(2,), condition=jnp.zeros((), int)), "one row a"),
        (lambda: estimate(gaussian, shape=(2,), intervals=1), "two intervals"),
        (lambda: estimate(gaussian, shape=(2,), samples=1), "two samples"),
        (lambda: estimate(gaussian, shape=(2,), batch=0), "batch must be a positive integer"),
        (lambda: estimate(gaussian, shape=(2,), sigma_min=30.0), "sigma_min < sigma_max"),
        (lambda: estimate(gaussian, shape=(2,), branches="both"), "fused or sequential"),
        (lambda: estimate(lambda x, s, c: x * math.nan, shape=(2,)), "calibrate again"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_noise_above_what_a_network_knows_is_refused():
    class Narrow(Labelled):
        sigma_range = (0.01, 10.0)

    for x0 in (None, jnp.ones((4, 2))):
        with pytest.raises(ValueError, match="sigma_max to 10"):
            estimate(Narrow(gaussian), x0=x0, shape=(2,), condition=jnp.zeros(4, jnp.int32))
