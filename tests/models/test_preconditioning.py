"""Preconditioners of networks that predict noise: VP, VE, improved DDPM."""

import jax.numpy as jnp
import numpy as np
import pytest

from guidestar import samplers
from guidestar.core.noise_levels import cosine_table
from guidestar.models.preconditioning import EDM, IDDPM, VE, VP, from_config, sigma_range

SIGMA = jnp.array([0.02, 0.3, 1.0, 7.0, 75.0])
FAMILIES = {"vp": VP(), "ve": VE(), "iddpm": IDDPM()}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_noise_itself_gives_the_data_back(name):
    # VE's networks return minus the noise.
    noise, data = (-1.0 if name == "ve" else 1.0) * 0.7, -0.4
    skip, out, inside, _ = FAMILIES[name].coefficients(SIGMA)
    np.testing.assert_allclose(skip * (data + SIGMA * 0.7) + out * noise, data, atol=1e-5)
    np.testing.assert_allclose(FAMILIES[name].loss_weight(SIGMA) * out**2, 1, rtol=1e-6)
    variance = 1 if name == "ve" else 1 / (1 + SIGMA**2)
    np.testing.assert_allclose(inside**2, variance, rtol=1e-5)


def test_variance_preserving_networks_are_told_the_time_in_steps():
    process = VP()
    for t in (1e-4, 0.01, 0.3, 1.0):
        sigma = jnp.sqrt(jnp.expm1(jnp.float32(19.9 / 2 * t**2 + 0.1 * t)))
        assert float(process.coefficients(sigma).noise) == pytest.approx(999 * t, rel=2e-4)
    np.testing.assert_allclose(process.time(SIGMA), samplers.convert(SIGMA, "sigma", "vp"))
    assert process.sigma_range == pytest.approx((0.0010005, 152.167), rel=1e-4)
    other = VP(beta_d=5.0, beta_min=0.3, steps=500)
    assert float(other.coefficients(jnp.sqrt(jnp.expm1(2.8))).noise) == pytest.approx(499, rel=1e-5)


def test_variance_exploding_networks_are_told_the_logarithm_of_half_the_noise():
    np.testing.assert_allclose(VE().coefficients(SIGMA).noise, np.log(np.asarray(SIGMA) / 2))
    assert VE().sigma_range == (0.02, 100.0)


def test_the_table_of_improved_ddpm_is_the_published_one():
    levels = IDDPM().levels
    assert levels.shape == (1000,) and (np.diff(levels) < 0).all()
    assert levels[0] == pytest.approx(20291, abs=1) and levels[-1] == pytest.approx(0.00643, 1e-3)
    # The sampler has the same table, and each package stands for itself.
    np.testing.assert_allclose(levels, cosine_table()[:-1], rtol=1e-12)
    assert IDDPM().sigma_range == (levels[-1], levels[0])
    assert IDDPM(steps=10).levels.shape == (10,)


def test_levels_of_the_table_are_told_by_their_number_from_the_lowest():
    family = IDDPM()
    levels = jnp.asarray(family.levels, jnp.float32)
    np.testing.assert_array_equal(family.coefficients(levels).noise, np.arange(1000)[::-1])


def test_other_levels_are_rounded_to_the_nearest_of_the_table():
    family = IDDPM()
    sigma = np.exp(np.random.default_rng(0).uniform(np.log(0.004), np.log(20_000), 200))
    nearest = np.abs(family.levels[:, None] - sigma).argmin(axis=0)
    coefficients = family.coefficients(jnp.asarray(sigma, jnp.float32))
    np.testing.assert_array_equal(coefficients.noise, 999 - nearest)
    rounded = family.nearest(jnp.asarray(sigma, jnp.float32))
    np.testing.assert_allclose(rounded, family.levels[nearest], rtol=1e-6)
    # The noise level itself is not rounded.
    np.testing.assert_allclose(coefficients.out, -sigma, rtol=1e-6)
    for end, step in ((1e-5, 0), (1e6, 999)):
        assert float(family.coefficients(jnp.float32(end)).noise) == step


def test_without_rounding_steps_in_between_are_interpolated():
    family = IDDPM(round_sigma=False)
    levels = jnp.asarray(family.levels, jnp.float32)
    np.testing.assert_allclose(family.coefficients(levels).noise, np.arange(1000)[::-1], atol=0.01)
    between = jnp.sqrt(levels[1:] * levels[:-1])
    np.testing.assert_allclose(
        family.coefficients(between).noise, np.arange(999)[::-1] + 0.5, atol=0.01
    )


def test_a_config_names_them_with_their_numbers():
    assert from_config("vp") == VP()
    assert from_config({"name": "ve", "sigma_max": 50.0}) == VE(sigma_max=50.0)
    assert from_config({"name": "iddpm", "round_sigma": False}, sigma_data=1.0) == IDDPM(
        round_sigma=False
    )
    with pytest.raises(TypeError, match="sigma_data"):
        from_config({"name": "vp", "sigma_data": 0.5})
    assert sigma_range(VE()) == (0.02, 100.0) and sigma_range(EDM()) == (0.002, 80.0)
