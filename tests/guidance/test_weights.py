"""Guidance weights that change with the noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, keys

from guidestar import guidance, samplers
from guidestar.core.noise_levels import flow_time, vp_sigma
from guidestar.guidance.transforms.weights import SHAPES, scheduled, scheduled_cfg

RISING = ("linear", "cosine", "powered_cosine")
FALLING = ("inverse_linear", "sine")
MIDPOINTS = (np.arange(20_000) + 0.5) / 20_000


def arrays(dtype=np.float32):
    random = np.random.default_rng(0)
    return {name: random.normal(size=(3, 4, 4, 1)).astype(dtype) for name in ("given", "null")}


def guided(rule, predictions, sigma):
    return guidance.combine(rule, predictions, sigma=sigma)[0].denoised


def weights(transform, u):
    """Return w at times u."""
    return 1 + transform.excess(jnp.asarray(u))


@pytest.mark.parametrize("form", ["s", "w"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_time_mean_of_a_normalised_weight_is_the_scale(shape, form, x64):
    transform = scheduled(3.5, shape, form=form)
    np.testing.assert_allclose(weights(transform, MIDPOINTS).mean(), 3.5, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_peak_of_a_weight_not_normalised_is_the_scale(shape):
    grid = np.linspace(0, 1, 101)
    for form in ("s", "w"):
        peak = weights(scheduled(3.5, shape, form=form, normalised=False), grid).max()
        np.testing.assert_allclose(peak, 3.5, rtol=1e-6)


@pytest.mark.parametrize(("power", "mean"), [(1.0, 0.5), (2.0, 0.313), (4.0, 0.178), (0.1, 0.965)])
def test_powered_cosines_have_the_known_means(power, mean, x64):
    raw = scheduled(2.0, "powered_cosine", power=power, normalised=False)
    np.testing.assert_allclose(raw.excess(jnp.asarray(MIDPOINTS)).mean(), mean, atol=6e-4)
    normalised = scheduled(2.0, "powered_cosine", power=power)
    np.testing.assert_allclose(normalised.excess(jnp.asarray(MIDPOINTS)).mean(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        ("linear", lambda u: 2 * (1 - u)),
        ("inverse_linear", lambda u: 2 * u),
        ("cosine", lambda u: 1 + np.cos(np.pi * u)),
        ("sine", lambda u: 1 - np.cos(np.pi * u)),
    ],
)
def test_normalised_shapes_are_the_published_ones(shape, published, x64):
    u = np.linspace(0, 1, 11)
    excess = scheduled(4.0, shape).excess(jnp.asarray(u))
    np.testing.assert_allclose(excess, 3 * published(u), atol=1e-12)


def test_the_two_in_the_middle_mirror_each_other(x64):
    u = jnp.asarray([0.0, 0.25, 0.5, 0.75, 1.0])
    peak = scheduled(2.0, "lambda", normalised=False).excess(u)
    valley = scheduled(2.0, "v", normalised=False).excess(u)
    np.testing.assert_allclose(peak, [0, 0.5, 1, 0.5, 0])
    np.testing.assert_allclose(valley, [1, 0.5, 0, 0.5, 1])


@pytest.mark.parametrize("form", ["s", "w"])
def test_a_constant_weight_is_plain_guidance(form):
    predictions = arrays()
    for sigma in (1e-3, 1.0, 80.0):
        np.testing.assert_array_equal(
            guided(scheduled_cfg(3.0, "constant", form=form), predictions, sigma),
            guided(guidance.cfg(3.0), predictions, sigma),
        )


def test_rising_weights_are_off_at_pure_noise_and_falling_ones_at_the_data():
    predictions = arrays()
    for shape in RISING:
        at_noise = guided(scheduled_cfg(3.0, shape), predictions, float(vp_sigma(1.0)) + 1)
        np.testing.assert_allclose(at_noise, predictions["given"], atol=1e-6)
    for shape in FALLING:
        at_data = guided(scheduled_cfg(3.0, shape), predictions, 1e-5)
        np.testing.assert_allclose(at_data, predictions["given"], atol=1e-6)


def test_form_w_leads_to_the_reference_where_form_s_is_off():
    predictions = arrays()
    at_noise = guided(scheduled_cfg(3.0, form="w"), predictions, 1e3)
    np.testing.assert_allclose(at_noise, predictions["null"], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_scale_one_is_off_bit_for_bit(shape):
    predictions = arrays()
    for sigma in (1e-3, 1.0, 80.0):
        np.testing.assert_array_equal(
            guided(scheduled_cfg(1.0, shape), predictions, sigma), predictions["given"]
        )


@pytest.mark.parametrize("form", ["s", "w"])
def test_the_floor_is_the_least_excess(form, x64):
    u = jnp.linspace(0, 1, 101)
    free = scheduled(4.0, "linear", form=form).excess(u)
    clamped = scheduled(4.0, "linear", form=form, floor=1.1).excess(u)
    assert clamped.min() == 1.1
    np.testing.assert_array_equal(clamped, np.maximum(free, 1.1))


def test_the_weight_follows_the_time_asked_for(x64):
    predictions, sigma = arrays(np.float64), 3.0
    excess = 2 * 2 * (1 - flow_time(sigma))
    push = predictions["given"] - predictions["null"]
    np.testing.assert_allclose(
        guided(scheduled_cfg(3.0, "linear", time="flow"), predictions, sigma),
        predictions["given"] + excess * push,
        rtol=1e-12,
    )
    in_vp = guided(scheduled_cfg(3.0, "linear"), predictions, float(vp_sigma(0.75)))
    np.testing.assert_allclose(in_vp, predictions["given"] + push, rtol=1e-12)


def test_the_schedule_takes_the_place_of_the_scale_in_a_chain():
    predictions = arrays()
    apg = guidance.push(
        guidance.null(), guidance.clip_norm(1.0), guidance.project(0.0), scheduled(5.0, "constant")
    )
    np.testing.assert_array_equal(
        guided(apg, predictions, 1.0),
        guided(guidance.apg(5.0, eta=0.0, norm=1.0, momentum=0.0), predictions, 1.0),
    )


NETWORK = Labelled()


def sampled(rule, count=4):
    noise = jax.random.normal(jax.random.key(0), (count, 2))
    sigmas = samplers.karras(6, 0.02, 20.0)
    condition = jnp.arange(count) % 2
    return samplers.sample(NETWORK, rule, samplers.heun(), sigmas, noise, condition, keys(count))


def test_new_numbers_compile_nothing(compilations):
    def make(scale, floor, power):
        return scheduled_cfg(scale, "powered_cosine", floor=floor, power=power)

    first = sampled(make(3.0, 0.5, 1.0))
    with compilations() as compiled:
        others = [sampled(make(*n)) for n in ((4.0, 0.5, 1.0), (3.0, 1.5, 1.0), (3.0, 0.5, 2.0))]
    assert not compiled
    assert all(np.abs(other - first).max() > 1e-3 for other in others)


def test_a_row_of_powers_runs_as_one_vmapped_program():
    powers = jnp.array([0.5, 1.0, 4.0])

    def end(power):
        return sampled(scheduled_cfg(3.0, "powered_cosine", power=power))

    row = jax.vmap(end)(powers)
    for power, result in zip(powers, row, strict=True):
        np.testing.assert_allclose(result, end(power), atol=1e-5)


@pytest.mark.longer
def test_float32_stays_float32_where_doubles_are_on(x64):
    rule = scheduled_cfg(3.0, "powered_cosine", power=2.0, floor=0.1)
    assert guided(rule, arrays(), 1.0).dtype == jnp.float32
    assert sampled(rule).dtype == jnp.float64
    traced = jax.tree.map(jnp.asarray, rule)
    assert guided(traced, arrays(), 1.0).dtype == jnp.float32


def test_configs_express_schedules():
    section = {
        "name": "push",
        "reference": {"name": "null"},
        "push": ({"name": "scheduled", "scale": 3.0, "shape": "sine", "floor": 0.2},),
    }
    rule = guidance.from_config(section)
    assert rule == guidance.push(guidance.null(), scheduled(3.0, "sine", floor=0.2))
    assert guidance.to_config(rule) == section


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("nan")}, "scale must be a finite"),
        ({"shape": "square"}, "shape must be one of constant, linear"),
        ({"form": "x"}, "form must be one of s, w"),
        ({"time": "edm"}, "time must be one of"),
        ({"floor": float("inf")}, "floor must be a finite"),
        ({"shape": "powered_cosine", "power": 0.0}, "power must be more than 0"),
        ({"shape": "cosine", "power": 2.0}, "power belongs to the shape powered_cosine"),
    ],
)
@pytest.mark.parametrize("make", [scheduled, scheduled_cfg])
def test_what_makes_no_schedule_is_refused(make, options, message):
    with pytest.raises(ValueError, match=f"guidance.{make.__name__}: {message}"):
        make(**({"scale": 2.0} | options))
