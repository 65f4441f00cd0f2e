"""Time-step guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.sited import READ_TIME, WIDTH, Sited, applied
from oracles.analytic import Labelled, keys

from guidestar import guidance, samplers
from guidestar.core.noise_levels import flow_time, vp_sigma
from guidestar.core.random import normal_like
from guidestar.guidance.references.tsg import NoisyTimeEmbedding, perturbed_time, tsg

LABEL = jnp.arange(4) % 2
X = jax.random.normal(jax.random.key(1), (4, 2))


def strength(reference, sigma):
    (mode,) = reference.branch(X, jnp.float32(sigma), keys(4)).modes
    return mode.strength


def test_the_noise_grows_as_a_power_of_the_time():
    for t in (0.0, 0.3, 1.0):
        sigma = vp_sigma(t)
        np.testing.assert_allclose(strength(perturbed_time(), sigma), 2 * t, rtol=1e-5)
        cubic = perturbed_time(s=0.5, alpha=3.0)
        np.testing.assert_allclose(strength(cubic, sigma), 0.5 * t**3, rtol=1e-5)
    in_flow = perturbed_time(time="flow")
    np.testing.assert_allclose(strength(in_flow, 3.0), 2 * flow_time(3.0), rtol=1e-6)


def test_the_time_may_count_steps_of_a_thousand():
    reference = perturbed_time(s=0.1, alpha=0.5, integer_time=True)
    np.testing.assert_allclose(strength(reference, vp_sigma(0.25004)), 0.1 * 250**0.5, rtol=1e-5)


def test_the_embedding_gets_unit_noise_of_the_given_strength():
    embedding = jnp.broadcast_to(jnp.arange(5.0), (4000, 5))
    noise = NoisyTimeEmbedding(keys(4000), 0.7, False).time_embedding(embedding) - embedding
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(noise.std(axis=0), 0.7, rtol=0.05)


def test_std_scaling_measures_the_noise_in_each_samples_own_spread():
    embedding = jnp.stack([jnp.linspace(-1, 1, 3000), jnp.linspace(-50, 50, 3000)])
    noise = NoisyTimeEmbedding(keys(2), 0.5, True).time_embedding(embedding) - embedding
    np.testing.assert_allclose(noise.std(axis=1) / embedding.std(axis=1), 0.5, rtol=0.05)


@pytest.mark.longer
def test_the_reference_is_the_network_at_the_noisy_embedding():
    # The network is linear in its time embedding: the reference is known in closed form.
    sigma = 2.0
    rule = tsg(0.0, s=0.8, std_scaling=False, time="flow")
    plain = applied(guidance.unguided(), X, sigma, LABEL, keys(4))
    noise = 0.8 * flow_time(sigma) * normal_like(keys(4), jnp.zeros((4, WIDTH)))
    shift = sigma**2 / (1 + sigma**2) * (noise @ READ_TIME)
    reference = applied(rule, X, sigma, LABEL, keys(4))
    np.testing.assert_allclose(reference - plain, shift[:, None] * np.ones(2), atol=2e-6)


@pytest.mark.longer
@pytest.mark.parametrize("rule", [tsg(1.0), tsg(4.0, s=0.0)], ids=["scale 1", "s 0"])
def test_scale_one_and_no_noise_are_the_plain_prediction_bit_for_bit(rule):
    plain = applied(guidance.unguided(), X, 2.0, LABEL, keys(4))
    guided = applied(rule, X, 2.0, LABEL, keys(4), branches="sequential")
    np.testing.assert_array_equal(guided, plain)
    assert np.abs(applied(tsg(4.0), X, 2.0, LABEL, keys(4)) - plain).max() > 0.1


@pytest.mark.longer
def test_draws_belong_to_the_key():
    first = applied(tsg(3.0), X, 2.0, LABEL, keys(4))
    np.testing.assert_array_equal(applied(tsg(3.0), X, 2.0, LABEL, keys(4)), first)
    assert np.abs(applied(tsg(3.0), X, 2.0, LABEL, keys(4, seed=1)) - first).max() > 0.1


NETWORK = Sited()


def sampled(rule, take=slice(None), **options):
    sigmas = samplers.karras(5, 0.02, 20.0)
    return samplers.sample(
        NETWORK, rule, samplers.euler(), sigmas, X[take], LABEL[take], keys(4)[take], **options
    )


@pytest.mark.longer
def test_a_sample_draws_the_same_alone_in_turn_and_in_a_batch():
    batch = sampled(tsg(3.0))
    np.testing.assert_allclose(sampled(tsg(3.0), branches="sequential"), batch, atol=1e-5)
    np.testing.assert_allclose(sampled(tsg(3.0), slice(2, 3))[0], batch[2], atol=1e-5)


def test_outside_its_interval_the_strength_is_nothing():
    for sigma, differ in ((1.0, True), (10.0, False)):
        results = [
            applied(guidance.between(tsg(3.0, s=s), 0.2, 3.0), X, sigma, LABEL, keys(4))
            for s in (0.5, 2.0)
        ]
        assert (np.abs(results[0] - results[1]).max() > 0.05) == differ


def test_new_numbers_compile_nothing(compilations):
    first = sampled(tsg(2.0, s=1.0, alpha=1.0))
    with compilations() as compiled:
        others = [
            sampled(tsg(*n[:1], s=n[1], alpha=n[2])) for n in ((3.0, 1.0, 1.0), (2.0, 0.5, 0.5))
        ]
    assert not compiled
    assert all(np.abs(other - first).max() > 0.01 for other in others)


def test_a_row_of_strengths_runs_as_one_vmapped_program():
    row = jax.vmap(lambda s: sampled(tsg(2.0, s=s)))(jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(row[0], sampled(tsg(2.0, s=0.5)), atol=1e-5)
    np.testing.assert_allclose(row[1], sampled(tsg(2.0, s=2.0)), atol=1e-5)


def test_float32_stays_float32_where_doubles_are_on(x64):
    x = X.astype(jnp.float32)
    rule = jax.tree.map(jnp.asarray, tsg(3.0))
    branch = rule.reference.branch(x, jnp.float32(1.0), keys(4))
    assert branch.modes[0].strength.dtype == jnp.float32
    embedding = jnp.ones((4, 8), jnp.bfloat16)
    assert branch.modes[0].time_embedding(embedding).dtype == jnp.bfloat16


def test_ready_made_predictions_go_by_the_name_perturbed_time():
    given, other = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    guided, _ = guidance.combine(
        tsg(3.0), {"given": given, "perturbed_time": other}, sigma=1.0, key=jax.random.key(0)
    )
    np.testing.assert_allclose(guided.denoised, other + 3 * (given - other), atol=1e-5)


def test_a_network_without_a_time_embedding_to_offer_is_refused():
    with pytest.raises(ValueError, match="asks for 'perturbed_time'"):
        applied(tsg(3.0), X, 1.0, LABEL, keys(4), Labelled())


def test_configs_express_the_rule():
    section = {
        "name": "push",
        "reference": {"name": "perturbed_time", "s": 1.0, "time": "flow"},
        "push": ({"name": "scale", "scale": 3.0},),
    }
    assert guidance.to_config(guidance.from_config(section)) == section


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s": -1.0}, "s must not be negative"),
        ({"s": float("nan")}, "s must be a finite"),
        ({"alpha": float("inf")}, "alpha must be a finite"),
        ({"time": "edm"}, "time must be one of"),
    ],
)
def test_numbers_that_make_no_perturbation_are_refused(options, message):
    for name, make in (("tsg", lambda **o: tsg(2.0, **o)), ("perturbed_time", perturbed_time)):
        with pytest.raises(ValueError, match=f"guidance.{name}: {message}"):
            make(**options)
