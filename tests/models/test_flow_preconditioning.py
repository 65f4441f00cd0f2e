"""Discrete steps of noise and flows of velocity, in EDM's coordinates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar import guidance, samplers
from guidestar.models.preconditioning import Discrete, Flow, from_config

# alpha(t) and s(t), time 1 being the data, as SiT's paper writes them.
PATHS = {
    "linear": (lambda t: t, lambda t: 1 - t),
    "gvp": (lambda t: jnp.sin(math.pi * t / 2), lambda t: jnp.cos(math.pi * t / 2)),
    "vp": (
        lambda t: jnp.exp(-((1 - t) ** 2) * (20 - 0.1) / 4 - (1 - t) * 0.1 / 2),
        lambda t: jnp.sqrt(1 - jnp.exp(-((1 - t) ** 2) * (20 - 0.1) / 2 - (1 - t) * 0.1)),
    ),
}


def on_path(path, t):
    """Return data, noise, the point on the path and its velocity at times t, ``[time, 5]``."""
    data, noise = (jax.random.normal(jax.random.key(k), (t.size, 5), t.dtype) for k in (0, 1))
    alpha, spread = PATHS[path]

    def point(t):
        return alpha(t)[:, None] * data + spread(t)[:, None] * noise

    return data, noise, *jax.jvp(point, (t,), (jnp.ones_like(t),))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("time", ["to_data", "to_noise"])
def test_a_velocity_and_a_point_give_the_data_back(path, time, x64):
    t = jnp.linspace(0.02, 0.98, 25)
    data, _, point, velocity = on_path(path, t)
    alpha, spread = (one(t) for one in PATHS[path])
    flow = Flow(path, time)
    skip, out, inside, network_time = flow.coefficients(spread / alpha)
    if time == "to_noise":
        velocity, t = -velocity, 1 - t
    x = point / alpha[:, None]
    np.testing.assert_allclose(skip[:, None] * x + out[:, None] * velocity, data, atol=1e-9)
    np.testing.assert_allclose(inside[:, None] * x, point, atol=1e-9)
    np.testing.assert_allclose(network_time, t, atol=1e-9)
    np.testing.assert_allclose(flow.sigma(t), spread / alpha, rtol=1e-9)
    np.testing.assert_allclose(flow.loss_weight(spread / alpha) * out**2, 1, rtol=1e-9)


def test_the_linear_path_has_its_two_identities(x64):
    t = jnp.linspace(0.02, 0.98, 25)
    data, noise, point, velocity = on_path("linear", t)
    np.testing.assert_allclose(point + (1 - t)[:, None] * velocity, data, atol=1e-12)
    np.testing.assert_allclose(point - t[:, None] * velocity, noise, atol=1e-12)
    skip, out, *_ = Flow().coefficients((1 - t) / t)
    np.testing.assert_allclose(skip, t, atol=1e-12)
    np.testing.assert_allclose(out, 1 - t, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_score_is_the_one_that_velocities_are_published_with(path, x64):
    t = jnp.linspace(0.02, 0.98, 25)
    point = jax.random.normal(jax.random.key(2), (25, 5))
    velocity = jax.random.normal(jax.random.key(3), (25, 5))
    alpha, spread = PATHS[path]
    (a, da), (s, ds) = (jax.jvp(one, (t,), (jnp.ones_like(t),)) for one in (alpha, spread))
    column = jax.tree.map(lambda one: one[:, None], (a, da, s, ds))
    a_, da_, s_, ds_ = column
    published = (a_ / da_ * velocity - point) / (s_**2 - a_ / da_ * ds_ * s_)
    skip, out, *_ = Flow(path).coefficients(s / a)
    denoised = skip[:, None] * point / a_ + out[:, None] * velocity
    np.testing.assert_allclose((a_ * denoised - point) / s_**2, published, rtol=1e-8)


def test_flows_are_asked_in_the_range_of_their_path():
    assert Flow().sigma_range == pytest.approx((0.001 / 0.999, 999.0))
    assert Flow("gvp").sigma_range == pytest.approx((0.00157080, 636.619), rel=1e-5)
    assert Flow("vp").sigma_range == pytest.approx(
        (samplers.convert(1e-3, "vp", "sigma"), samplers.convert(1.0, "vp", "sigma"))
    )
    for path in PATHS:
        low, high = Flow(path).sigma_range
        times = Flow(path).network_time(jnp.array([low, high]))
        np.testing.assert_allclose(times, [0.999, 0 if path == "vp" else 0.001], atol=2e-6)


def velocity(x, t):
    """Return some smooth velocity; not one of a flow that exists."""
    t = t.reshape(-1, 1)
    return jnp.sin(3 * x + 2 * t) + t * x[:, ::-1]


def denoiser(flow, network):
    def denoise(x, sigma, condition):
        del condition
        skip, out, inside, time = flow.coefficients(jnp.full(x.shape[:1], sigma, x.dtype))
        return skip[:, None] * x + out[:, None] * network(inside[:, None] * x, time)

    return denoise


def sampled(denoise, sigmas, noise, solver):
    key = jax.random.key(0)
    return samplers.sample(denoise, guidance.unguided(), solver, sigmas, noise, None, key)


@pytest.mark.parametrize("path", PATHS)
def test_either_direction_of_time_gives_the_same_samples(path):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    sigmas = samplers.karras(6, 0.01, 100.0)
    to_data = denoiser(Flow(path), velocity)
    to_noise = denoiser(Flow(path, "to_noise"), lambda x, t: -velocity(x, 1 - t))
    one, other = (sampled(each, sigmas, noise, samplers.heun()) for each in (to_data, to_noise))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_euler_on_a_flow_schedule_is_euler_on_the_velocity(x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    times = np.linspace(0.001, 1.0, 8)
    sigmas = np.asarray(Flow().sigma(jnp.asarray(times)))
    found = sampled(denoiser(Flow(), velocity), sigmas, noise, samplers.euler())
    # The first state is noise alone: alpha x with x = sigma noise, alpha sigma = 1 - t.
    x = (1 - times[0]) * noise
    for now, then in zip(times[:-1], times[1:], strict=True):
        x = x + (then - now) * velocity(x, jnp.full(4, now))
    np.testing.assert_allclose(found, x, atol=1e-9)


# Discrete steps.


def test_the_table_is_ddpm_s():
    sigmas = np.asarray(Discrete().sigma(jnp.array([0.0, 499.0, 999.0])))
    np.testing.assert_allclose(1 / (1 + sigmas**2), [0.9999, 0.078587, 4.03583e-5], rtol=1e-5)
    for betas, ends in (("linear", (1e-4, 0.02)), ("scaled_linear", (0.00085, 0.012))):
        schedule = samplers.vp_discrete(1000, "uniform", *ends, betas, final_zero=False)[::-1]
        table = Discrete(*ends, betas=betas)
        np.testing.assert_allclose(table.sigma(jnp.arange(1000.0)), schedule, rtol=2e-6)
        np.testing.assert_allclose(
            table.network_time(jnp.asarray(schedule)), np.arange(1000), atol=2e-3
        )
        assert table.sigma_range == pytest.approx((schedule[0], schedule[-1]), rel=1e-12)


def test_between_two_steps_the_index_is_linear_in_log_sigma(x64):
    table = Discrete()
    low, high = table.sigma(jnp.array([300.0, 301.0]))
    between = low**0.75 * high**0.25
    assert float(table.network_time(between)) == pytest.approx(300.25, abs=1e-6)
    assert float(table.sigma(jnp.float64(300.25))) == pytest.approx(float(between), rel=1e-9)
    assert float(Discrete(whole=True).network_time(between)) == 300
    np.testing.assert_array_equal(table.network_time(jnp.array([1e-4, 0.0, 500.0])), [0, 0, 999])


def test_a_network_of_noise_sees_ddpm_s_input_and_gives_the_data_back(x64):
    data, noise = (jax.random.normal(jax.random.key(k), (9,)) for k in (0, 1))
    sigma = Discrete().sigma(jnp.linspace(0.0, 999.0, 9))
    alpha_bar = 1 / (1 + sigma**2)
    x = data + sigma * noise
    skip, out, inside, _ = Discrete().coefficients(sigma)
    np.testing.assert_allclose(skip * x + out * noise, data, atol=1e-9)
    expected = jnp.sqrt(alpha_bar) * data + jnp.sqrt(1 - alpha_bar) * noise
    np.testing.assert_allclose(inside * x, expected, atol=1e-9)
    np.testing.assert_allclose(Discrete().loss_weight(sigma) * out**2, 1, rtol=1e-9)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(name="flow", path="curved"), "path must be one of linear, gvp, vp"),
        (dict(name="flow", time="forwards"), "time must be one of to_data, to_noise"),
        (dict(name="flow", time_scale=0.0), "not above 0"),
        (
            dict(name="discrete", betas="square"),
            "betas must be one of linear, scaled_linear, cosine",
        ),
        (dict(name="discrete", beta_start=0.0), "0 < beta_start"),
        (dict(name="discrete", steps=1), "2 steps or more"),
    ],
)
def test_what_makes_no_preconditioner_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        from_config(section)


def test_a_config_names_them():
    assert from_config("discrete", sigma_data=0.5, noise_scale=250.0) == Discrete()
    assert from_config({"name": "flow", "path": "gvp"}, sigma_data=0.5) == Flow("gvp")
