"""Independent condition guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.sited import READ_CONDITION, TABLE, Sited, applied
from oracles.analytic import keys, mixture_denoiser, two_classes
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.guidance.references.icg import IndependentEmbedding, icg, independent

MANY = 4096
KINDS = {
    "classes": {"classes": 2},
    "prior": {"prior": (0.25, 0.75)},
    "embedding": {"embedding": True},
    "per feature": {"embedding": True, "per_feature": True},
}


def labels_drawn(reference, count=MANY, seed=0):
    branch = reference.branch(jnp.zeros((count, 2)), jnp.float32(1.0), keys(count, seed))
    return np.asarray(branch.condition)


def test_classes_are_drawn_uniformly():
    drawn = labels_drawn(independent(classes=4))
    assert drawn.dtype == np.int32
    np.testing.assert_allclose(np.bincount(drawn) / MANY, 0.25, atol=0.03)


def test_classes_are_drawn_from_the_prior():
    drawn = labels_drawn(independent(prior=(0.6, 0.0, 0.1, 0.3)))
    np.testing.assert_allclose(np.bincount(drawn) / MANY, [0.6, 0, 0.1, 0.3], atol=0.03)
    assert 1 not in drawn


def test_draws_belong_to_the_key_and_differ_between_keys():
    reference = independent(classes=50)
    np.testing.assert_array_equal(labels_drawn(reference), labels_drawn(reference))
    agreement = np.mean(labels_drawn(reference) == labels_drawn(reference, seed=1))
    np.testing.assert_allclose(agreement, 1 / 50, atol=0.02)


def mean_reference(sigma, point, prior):
    """Average the reference's predictions over draws, at one point."""
    x = jnp.broadcast_to(jnp.asarray(point), (MANY, 2))
    rule = icg(0.0, prior=prior)
    network = mixture_denoiser()
    null = network(x[:1], sigma, None)[0]
    return applied(rule, x, sigma, jnp.zeros(MANY, int), keys(MANY), network).mean(axis=0), null


@pytest.mark.longer
def test_averaged_over_the_posterior_the_reference_is_the_unconditional_prediction():
    sigma, point = 0.7, jnp.array([[0.3, -0.2]])
    odds = jnp.stack([mixture.log_density(point, sigma)[0] for mixture in two_classes()[:2]])
    posterior = tuple(np.asarray(jax.nn.softmax(odds)))
    mean, null = mean_reference(sigma, point[0], posterior)
    np.testing.assert_allclose(mean, null, atol=0.02)


@pytest.mark.longer
def test_averaged_over_the_prior_it_is_so_where_noise_hides_the_class():
    mean, null = mean_reference(40.0, (3.0, 20.0), (0.5, 0.5))
    np.testing.assert_allclose(mean, null, atol=0.03)
    mean, null = mean_reference(0.5, (1.0, 0.0), (0.5, 0.5))
    assert np.abs(mean - null).max() > 0.2


def test_the_gaussian_has_the_tables_mean_and_deviation():
    mode = IndependentEmbedding(keys(MANY), False)
    drawn = mode.condition_embedding(jnp.zeros((MANY, 8)), jnp.asarray(TABLE))
    np.testing.assert_allclose(drawn.mean(axis=0), TABLE.mean(), atol=0.06)
    np.testing.assert_allclose(drawn.std(axis=0), TABLE.std(), rtol=0.05)


def test_per_feature_it_has_each_features_own():
    mode = IndependentEmbedding(keys(MANY), True)
    drawn = mode.condition_embedding(jnp.zeros((MANY, 8)), jnp.asarray(TABLE))
    np.testing.assert_allclose(drawn.mean(axis=0), TABLE.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(drawn.std(axis=0), TABLE.std(axis=0), rtol=0.05)
    with pytest.raises(ValueError, match="per_feature needs a table"):
        mode.condition_embedding(jnp.zeros((MANY, 8)), None)


def test_without_a_table_the_gaussian_has_the_statistics_of_the_samples_own_embedding():
    own = jnp.stack([jnp.linspace(0, 1, 2048), jnp.linspace(-5, 3, 2048)])
    drawn = IndependentEmbedding(keys(2), False).condition_embedding(own, None)
    np.testing.assert_allclose(drawn.mean(axis=1), own.mean(axis=1), atol=0.15)
    np.testing.assert_allclose(drawn.std(axis=1), own.std(axis=1), rtol=0.05)


@pytest.mark.longer
def test_the_gaussian_takes_the_place_of_the_condition_in_the_reference_alone():
    x, sigma = jnp.ones((3, 2)), 2.0
    label = jnp.array([0, 1, 1])
    reference = applied(icg(0.0, embedding=True), x, sigma, label, keys(3))
    plain = applied(guidance.unguided(), x, sigma, label, keys(3))
    drawn = IndependentEmbedding(keys(3), False).condition_embedding(TABLE[label], TABLE)
    shift = sigma**2 / (1 + sigma**2) * ((drawn - TABLE[label]) @ READ_CONDITION)
    np.testing.assert_allclose(reference - plain, shift[:, None] * np.ones(2), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_scale_one_ignores_the_draw(kind):
    x, label = jnp.ones((4, 2)), jnp.arange(4) % 2
    plain = applied(guidance.unguided(), x, 2.0, label, keys(4))
    off, on = (
        applied(icg(scale, **KINDS[kind]), x, 2.0, label, keys(4), branches="sequential")
        for scale in (1.0, 3.0)
    )
    np.testing.assert_array_equal(off, plain)
    assert np.abs(on - plain).max() > 0.1


def test_a_network_that_ignores_its_condition_is_not_guided():
    def blind(x, sigma, condition):
        del condition
        return x / (1 + sigma**2)

    blind.null_condition = 2
    x, label = jax.random.normal(jax.random.key(0), (4, 2)), jnp.arange(4) % 2
    guided = applied(icg(7.0, classes=2), x, 1.0, label, keys(4), blind)
    np.testing.assert_array_equal(guided, blind(x, jnp.float32(1.0), label))


NETWORK = Sited()


def sampled(rule, count=6, take=slice(None), **options):
    noise = jax.random.normal(jax.random.key(0), (count, 2))[take]
    sigmas = samplers.karras(5, 0.02, 20.0)
    condition = (jnp.arange(count) % 2)[take]
    return samplers.sample(
        NETWORK, rule, samplers.euler(), sigmas, noise, condition, keys(count)[take], **options
    )


@pytest.mark.longer
@pytest.mark.parametrize("kind", few(1, KINDS))
def test_a_sample_draws_the_same_alone_in_turn_and_in_a_batch(kind):
    rule = icg(3.0, **KINDS[kind])
    batch = sampled(rule)
    np.testing.assert_allclose(sampled(rule, branches="sequential"), batch, atol=1e-5)
    np.testing.assert_allclose(sampled(rule, take=slice(4, 5))[0], batch[4], atol=1e-5)


def test_draws_are_new_at_every_evaluation():
    seen = []

    def denoise(x, sigma, condition):
        jax.debug.callback(lambda label: seen.append(np.array(label)), condition)
        return x / (1 + sigma**2)

    rule, sigmas = icg(2.0, classes=1000), samplers.karras(3, 0.1, 10.0)
    given = jnp.full(6, 1000)
    samplers.sample(denoise, rule, samplers.euler(), sigmas, jnp.ones((6, 2)), given, keys(6))
    jax.effects_barrier()
    drawn = np.concatenate(seen)
    drawn = drawn[drawn < 1000]
    assert len(drawn) == 6 * (len(sigmas) - 1)
    assert len(np.unique(drawn)) > len(drawn) - 3


def test_new_priors_and_scales_compile_nothing(compilations):
    first = sampled(icg(2.0, prior=(0.5, 0.5)))
    with compilations() as compiled:
        other = sampled(icg(3.0, prior=(0.9, 0.1)))
    assert not compiled
    assert np.abs(first - other).max() > 0.01


@pytest.mark.longer
def test_ready_made_predictions_go_by_the_name_independent():
    random = np.random.default_rng(0)
    given, other = random.normal(size=(2, 3, 4)).astype(np.float32)
    for options in KINDS.values():
        guided, _ = guidance.combine(
            icg(3.0, **options), {"given": given, "independent": other}, key=jax.random.key(0)
        )
        np.testing.assert_allclose(guided.denoised, other + 3 * (given - other), atol=1e-5)
    with pytest.raises(ValueError, match="give guidance.combine a key"):
        guidance.combine(icg(3.0, classes=3), {"given": given, "independent": other})


def test_a_condition_that_is_no_label_is_refused_where_classes_are_drawn():
    x = jnp.ones((3, 2))
    for condition in (jnp.zeros((3, 8)), {"label": jnp.zeros(3, int)}):
        with pytest.raises(ValueError, match="independent draws class labels"):
            applied(icg(2.0, classes=3), x, 1.0, condition, keys(3))


def test_configs_express_the_reference():
    section = {"name": "icg", "scale": 2.0, "prior": (0.5, 0.5)}
    assert guidance.to_config(guidance.from_config(section)) == section


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of classes=number, prior=probabilities and embedding=True, got 0"),
        ({"classes": 3, "embedding": True}, "got 2 of them"),
        ({"classes": 2, "prior": (0.5, 0.5)}, "got 2 of them"),
        ({"classes": 0}, "classes must be a number"),
        ({"prior": ()}, "one probability a class"),
        ({"prior": ((0.5, 0.5),)}, "one probability a class"),
        ({"prior": (0.5, 0.6)}, "must sum to 1"),
        ({"prior": (1.5, -0.5)}, "must not be negative"),
        ({"prior": (float("nan"), 1.0)}, "must not be negative"),
        ({"classes": 2, "per_feature": True}, "per_feature is for embedding=True"),
    ],
)
def test_what_no_condition_can_be_drawn_from_is_refused(options, message):
    for name, make in (("icg", lambda **o: icg(2.0, **o)), ("independent", independent)):
        with pytest.raises(ValueError, match=f"guidance.{name}: .*{message}"):
            make(**options)
