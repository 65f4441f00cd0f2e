"""Noise levels as times in [0, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar.core.noise_levels import TIMES, checked_time, flow_time, vp_sigma, vp_time

TIMES_IN_ORDER = np.array([1e-9, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0])


def test_the_variance_preserving_time_inverts_its_noise_level():
    np.testing.assert_allclose(vp_time(vp_sigma(TIMES_IN_ORDER)), TIMES_IN_ORDER, rtol=1e-12)


def test_the_noise_level_comes_from_the_integral_of_beta():
    # d log alpha_bar / dt = -beta(t), which runs from 0.1 to 20; the midpoint rule is exact.
    for t in (0.2, 0.7, 1.0):
        steps = (np.arange(1000) + 0.5) / 1000 * t
        alpha_bar = np.exp(-np.mean(0.1 + 19.9 * steps) * t)
        np.testing.assert_allclose(vp_sigma(t), np.sqrt(1 / alpha_bar - 1), rtol=1e-9)
    np.testing.assert_allclose(vp_sigma(1.0), 152.2, atol=0.1)


@pytest.mark.parametrize("sigma", [1e-6, 1e-4, 1e-3])
def test_small_noise_levels_keep_their_digits_in_float32(sigma):
    # sigma^2 = beta_min t to first order.
    in_single = vp_time(jnp.float32(sigma))
    np.testing.assert_allclose(in_single, vp_time(np.float64(sigma)), rtol=1e-5)
    np.testing.assert_allclose(in_single, sigma**2 / 0.1, rtol=1e-3)
    np.testing.assert_allclose(vp_sigma(jnp.float32(in_single)), sigma, rtol=1e-5)


def test_the_time_ends_at_one():
    assert vp_time(1e4) == 1
    assert vp_time(jnp.float32(80.0)) < 1


def test_the_flow_time_is_the_noise_share_of_the_linear_path():
    np.testing.assert_allclose(flow_time(np.array([0.0, 1.0, 3.0])), [0, 0.5, 0.75])


@pytest.mark.parametrize("name", TIMES)
def test_times_rise_from_zero_and_hold_traced_as_on_the_host(name):
    sigmas = np.geomspace(1e-3, 80, 20)
    on_host = TIMES[name](sigmas)
    assert TIMES[name](0.0) == 0
    assert np.all(np.diff(on_host) > 0)
    assert isinstance(on_host, np.ndarray)
    traced = jax.jit(TIMES[name])(jnp.asarray(sigmas, jnp.float32))
    np.testing.assert_allclose(traced, on_host, rtol=1e-5)


def test_an_unknown_time_is_refused():
    assert checked_time("tsg", "flow") == "flow"
    with pytest.raises(ValueError, match="guidance.tsg: time must be one of vp, flow"):
        checked_time("tsg", "edm")
