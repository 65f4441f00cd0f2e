"""Distributions of noise levels: their quantiles, what is drawn from them, and parts of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from guidestar.core.registry import registry
from guidestar.models.preconditioning import VP
from guidestar.training.noise import levels

ALL = {
    name: make()
    for name, make in ((name, registry("noise")[name].build) for name in registry("noise"))
}


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize(
    ("mean", "std", "quantiles"),
    [
        (-1.2, 1.2, (0.0418, 0.301, 2.168)),  # EDM
        (-0.4, 1.0, (0.129, 0.670, 3.472)),  # EDM2, latents of 512x512 images
        (-0.8, 1.6, (0.0323, 0.449, 6.245)),  # EDM2, 64x64 pixels
    ],
)
def test_log_normal_quantiles_are_those_of_the_published_recipes(mean, std, quantiles):
    found = levels.log_normal(mean, std).quantile(jnp.array([0.05, 0.5, 0.95]))
    np.testing.assert_allclose(found, quantiles, rtol=4e-3)


@pytest.mark.parametrize("name", ALL)
def test_draws_follow_the_quantile_function(name):
    """Sorted draws lie at the quantiles of their ranks (Kolmogorov-Smirnov at about 1e-6)."""
    count = 20_000
    drawn = np.sort(levels.draw(ALL[name], keys(count)))
    reach = 2.7 / math.sqrt(count)
    rank = (np.arange(count) + 0.5) / count
    low = ALL[name].quantile(jnp.clip(rank - reach, 1e-6, 1 - 1e-6))
    high = ALL[name].quantile(jnp.clip(rank + reach, 1e-6, 1 - 1e-6))
    inside = slice(int(count * reach) + 1, -int(count * reach) - 1)
    assert (drawn[inside] >= np.asarray(low)[inside] * (1 - 1e-5)).all()
    assert (drawn[inside] <= np.asarray(high)[inside] * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", ALL)
def test_quantiles_increase_and_are_finite_where_a_draw_can_be(name):
    shares = jnp.array([2.0**-24, 0.01, 0.3, 0.5, 0.9, 0.99, 1 - 2.0**-24])
    sigma = np.asarray(ALL[name].quantile(shares))
    assert np.isfinite(sigma).all() and sigma[0] > 0
    assert (np.diff(sigma) > 0).all()


# What of a noise level is uniform on (0, 1).
UNIFORM = {
    "log_uniform": lambda s: np.log(s / 0.02) / np.log(100 / 0.02),
    "log_snr_uniform": lambda s: (2 * np.log(s) + 20) / 40,
    "flow_times": lambda s: s / (1 + s),
    "vp_times": VP().time,
}


@pytest.mark.parametrize("name", UNIFORM)
def test_a_uniform_time_is_uniform(name):
    shares = jnp.linspace(0.01, 0.99, 9)
    found = UNIFORM[name](ALL[name].quantile(shares))
    np.testing.assert_allclose(found, shares, atol=3e-5)


def test_the_trigonometric_path_has_uniform_angles():
    shares = jnp.linspace(0.01, 0.99, 9)
    angle = jnp.arctan(levels.flow_times("gvp").quantile(shares)) * 2 / math.pi
    np.testing.assert_allclose(angle, shares, rtol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.3, 0.7, 3.0)])
def test_logit_normal_times_have_the_moments_and_the_shift_of_their_definition(mean, std, shift):
    sigma = np.asarray(levels.draw(levels.logit_normal(mean, std, shift), keys(40_000)), np.float64)
    time = sigma / (1 + sigma)
    before = time / (shift + (1 - shift) * time)  # t' = s t / (1 + (s - 1) t) solved for t
    logit = np.log(before / (1 - before))
    assert logit.mean() == pytest.approx(mean, abs=4 * std / 200)
    assert logit.std() == pytest.approx(std, rel=0.02)
    median = float(levels.logit_normal(mean, std, shift).quantile(jnp.asarray(0.5)))
    assert median / (1 + median) == pytest.approx(
        shift * norm_logistic(mean) / (1 + (shift - 1) * norm_logistic(mean)), rel=1e-5
    )


def norm_logistic(mean):
    return 1 / (1 + math.exp(-mean))


def test_the_table_of_ddpm_has_its_published_entries():
    table = levels.discrete()
    alpha_bar = 1 / (1 + np.asarray(table.sigmas) ** 2)
    assert len(table.sigmas) == 1000
    np.testing.assert_allclose(alpha_bar[[0, 499, 999]], [0.9999, 0.078587, 4.03583e-5], rtol=2e-5)


@pytest.mark.longer
@pytest.mark.parametrize("name", ["discrete", "iddpm_levels"])
def test_every_level_of_a_table_is_drawn_equally_often_and_found_again(name):
    table = ALL[name]
    sigma = table.quantile((jnp.arange(1000) + 0.5) / 1000)
    np.testing.assert_allclose(sigma, table.sigmas, rtol=1e-6)
    np.testing.assert_array_equal(table.index(sigma), np.arange(1000))


def test_a_part_of_a_distribution_is_drawn_from_alone():
    edm = levels.log_normal()
    low, high = jnp.tile(jnp.array([0.0, 0.5]), 2000), jnp.tile(jnp.array([0.1, 0.75]), 2000)
    share = norm.cdf((np.log(levels.draw(edm, keys(4000), (low, high))) + 1.2) / 1.2)
    assert ((share[::2] < 0.1) & (share[1::2] > 0.5) & (share[1::2] < 0.75)).all()
    assert share[::2].mean() == pytest.approx(0.05, abs=0.003)
    assert share[1::2].mean() == pytest.approx(0.625, abs=0.007)


@pytest.mark.longer
def test_a_sample_draws_the_same_in_any_batch():
    whole = levels.draw(ALL["log_normal"], keys(5))
    alone = [levels.draw(ALL["log_normal"], keys(5)[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: levels.log_normal(std=-1), "std -1 is the spread"),
        (lambda: levels.log_uniform(2, 1), "0 < low < high"),
        (lambda: levels.vp_times(0.5, 0.5), "0 <= low < high <= 1"),
        (lambda: levels.flow_times("cubic"), "path 'cubic' is not one of linear"),
        (lambda: levels.logit_normal(shift=0), "shift above 0"),
        (lambda: levels.log_snr_uniform(1, 1), "need low < high"),
        (lambda: levels.discrete(beta_start=0), "0 < beta_start"),
    ],
)
def test_a_distribution_that_is_none_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
