"""Condition-annealed sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.sited import READ_CONDITION, TABLE, WIDTH, Sited, applied
from oracles.analytic import Labelled, keys, weak
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.core.noise_levels import vp_sigma
from guidestar.core.random import CONDITION_NOISE, folded, normal_like
from guidestar.guidance.references.icg import icg
from guidestar.guidance.references.tsg import tsg
from guidestar.guidance.wrappers.cads import AnnealedCondition, annealing, cads
from guidestar.samplers.evaluator import Evaluator

LABEL = jnp.arange(4) % 2
X = jax.random.normal(jax.random.key(1), (4, 2))
# Below tau1, between the two, above tau2 (0.6 and 0.9).
CLEAR, HALF, DROWNED = (float(vp_sigma(t)) for t in (0.5, 0.75, 0.95))
EMBEDDING = jax.random.normal(jax.random.key(2), (4, WIDTH)) * 3 + 1


def anneal(embedding, gamma, noise=0.25, mixing=1.0, seed=0):
    mode = AnnealedCondition(keys(len(embedding), seed), jnp.float32(gamma), noise, mixing)
    return mode.condition_embedding(embedding)


def test_gamma_is_one_up_to_tau1_and_falls_in_a_line_to_zero_at_tau2():
    for t, expected in ((0.0, 1), (0.3, 1), (0.6, 1), (0.675, 0.75), (0.75, 0.5), (0.9, 0), (1, 0)):
        gamma = annealing(jnp.float32(vp_sigma(t)), 0.6, 0.9, "vp")
        np.testing.assert_allclose(gamma, expected, atol=1e-5)
    np.testing.assert_allclose(annealing(jnp.float32(3.0), 0.5, 1.0, "flow"), 0.5, rtol=1e-6)


def test_gamma_one_returns_the_embedding_bit_for_bit():
    for mixing in (0.0, 0.3, 1.0):
        np.testing.assert_array_equal(anneal(EMBEDDING, 1.0, mixing=mixing), EMBEDDING)


@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("shape", [(4, WIDTH), (4, 5, 6)])
def test_full_mixing_keeps_each_samples_mean_and_deviation(gamma, shape):
    y = jax.random.normal(jax.random.key(0), shape) * jnp.arange(1.0, 5).reshape(
        (-1,) + (1,) * (len(shape) - 1)
    )
    annealed = anneal(y, gamma)
    axes = tuple(range(1, y.ndim))
    np.testing.assert_allclose(annealed.mean(axis=axes), y.mean(axis=axes), atol=1e-5)
    np.testing.assert_allclose(annealed.std(axis=axes), y.std(axis=axes), rtol=1e-4)
    assert np.abs(annealed - y).max() > 0.01


def test_without_mixing_the_condition_fades_into_noise_of_the_given_size():
    noise = normal_like(keys(4), EMBEDDING)
    np.testing.assert_allclose(anneal(EMBEDDING, 0.0, 0.3, 0.0), 0.3 * noise, atol=1e-6)
    np.testing.assert_allclose(
        anneal(EMBEDDING, 0.36, 0.3, 0.0), 0.6 * EMBEDDING + 0.3 * 0.8 * noise, atol=1e-5
    )


def test_mixing_moves_in_a_line_between_the_two():
    noisy, restored = anneal(EMBEDDING, 0.4, mixing=0.0), anneal(EMBEDDING, 0.4, mixing=1.0)
    half = anneal(EMBEDDING, 0.4, mixing=0.5)
    np.testing.assert_allclose(half, (noisy + restored) / 2, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_an_embedding_of_one_value_stays_itself(noise):
    flat = jnp.full((3, WIDTH), 2.0)
    for gamma in (0.0, 0.5, 1.0):
        annealed = anneal(flat, gamma, noise)
        np.testing.assert_allclose(annealed, 2.0, atol=1e-6)


@pytest.mark.longer
def test_below_tau1_the_rule_is_the_inner_one_bit_for_bit():
    for rule in (guidance.cfg(3.0), tsg(3.0)):
        np.testing.assert_array_equal(
            applied(cads(rule), X, CLEAR, LABEL, keys(4)), applied(rule, X, CLEAR, LABEL, keys(4))
        )


def shift(before, after, sigma):
    """Return what another condition embedding changes in `Sited`'s prediction."""
    return (sigma**2 / (1 + sigma**2) * ((after - before) @ READ_CONDITION))[:, None] * np.ones(2)


def test_only_the_given_condition_is_annealed_unless_null_is_noised():
    table, streams = jnp.asarray(TABLE), folded(keys(4), CONDITION_NOISE)
    gamma = annealing(jnp.float32(HALF), 0.6, 0.9, "vp")
    mode = AnnealedCondition(streams, gamma, 0.25, 1.0)
    given, null = table[LABEL], table[jnp.full(4, 2)]
    given_shift, null_shift = (
        shift(one, mode.condition_embedding(one), HALF) for one in (given, null)
    )
    assert np.abs(given_shift).max() > 0.1 and np.abs(null_shift).max() > 0.1
    for branches in ("fused", "sequential"):
        plain = applied(guidance.cfg(3.0), X, HALF, LABEL, keys(4), branches=branches)
        one = applied(cads(guidance.cfg(3.0)), X, HALF, LABEL, keys(4), branches=branches)
        np.testing.assert_allclose(one - plain, 3 * given_shift, atol=1e-4)
        rule = cads(guidance.cfg(3.0), null_noised=True)
        both = applied(rule, X, HALF, LABEL, keys(4), branches=branches)
        np.testing.assert_allclose(both - plain, 3 * given_shift - 2 * null_shift, atol=1e-4)


def test_above_tau2_nothing_of_the_label_is_left_but_its_statistics():
    def along(label):
        rule = cads(guidance.unguided(), mixing=0.0)
        return applied(rule, X, DROWNED, jnp.full(4, label), keys(4))

    np.testing.assert_allclose(along(0), along(1), atol=1e-6)


def test_an_embedding_given_as_the_condition_is_annealed_itself():
    class Bare(Labelled):
        """Has no sites, and takes embeddings."""

        def __call__(self, x, sigma, condition):
            return Sited()(x, sigma, condition)

    plain = applied(guidance.unguided(), X, HALF, EMBEDDING, keys(4), Bare())
    guided = applied(cads(guidance.unguided()), X, HALF, EMBEDDING, keys(4), Bare())
    gamma = annealing(jnp.float32(HALF), 0.6, 0.9, "vp")
    mode = AnnealedCondition(folded(keys(4), CONDITION_NOISE), gamma, 0.25, 1.0)
    expected = shift(EMBEDDING, mode.condition_embedding(EMBEDDING), HALF)
    np.testing.assert_allclose(guided - plain, expected, atol=1e-4)
    assert np.abs(expected).max() > 0.1
    clear = applied(cads(guidance.unguided()), X, CLEAR, EMBEDDING, keys(4), Bare())
    np.testing.assert_array_equal(
        clear, applied(guidance.unguided(), X, CLEAR, EMBEDDING, keys(4), Bare())
    )
    with pytest.raises(ValueError, match="null_noised needs labels"):
        applied(cads(guidance.cfg(2.0), null_noised=True), X, HALF, EMBEDDING, keys(4), Bare())


def test_a_condition_of_several_parts_is_refused():
    with pytest.raises(ValueError, match="several parts"):
        applied(cads(guidance.cfg(2.0)), X, HALF, {"a": LABEL, "b": LABEL}, keys(4))
    mixed = guidance.push(guidance.Branch(condition={"a": "given"}), guidance.scale(2.0))
    with pytest.raises(ValueError, match="several parts"):
        applied(cads(mixed), X, HALF, LABEL, keys(4))


def test_dynamic_multiplies_the_whole_weight_by_gamma():
    # D_ref + gamma w (D_main - D_ref), with annealed predictions; the main one is known at scale 1.
    scale = 3.0
    for sigma, gamma in ((CLEAR, 1.0), (HALF, 0.5), (DROWNED, 0.0)):
        guided = applied(cads(guidance.cfg(scale), dynamic=True), X, sigma, LABEL, keys(4))
        expected = applied(cads(guidance.cfg(gamma * scale)), X, sigma, LABEL, keys(4))
        np.testing.assert_allclose(guided, expected, atol=1e-4)
    np.testing.assert_array_equal(
        applied(cads(guidance.cfg(scale), dynamic=True), X, CLEAR, LABEL, keys(4)),
        applied(guidance.cfg(scale), X, CLEAR, LABEL, keys(4)),
    )


def test_dynamic_needs_one_push_and_says_where_to_put_it():
    for rule in (
        guidance.between(guidance.cfg(2.0), 0.1, 3.0),
        guidance.together(guidance.cfg(2.0)),
    ):
        with pytest.raises(TypeError, match="put cads inside"):
            cads(rule, dynamic=True)
    inside = guidance.between(cads(guidance.apg(2.0), dynamic=True), 0.1, 50.0)
    assert np.isfinite(applied(inside, X, HALF, LABEL, keys(4))).all()


def test_scale_one_is_the_annealed_prediction():
    np.testing.assert_array_equal(
        applied(cads(guidance.cfg(1.0)), X, HALF, LABEL, keys(4)),
        applied(cads(guidance.unguided()), X, HALF, LABEL, keys(4)),
    )


class Guide(Sited):
    """Another network that sees the same condition, and answers half of what `Sited` does."""

    def __call__(self, x, sigma, condition, modes=()):
        return super().__call__(x, sigma, condition, modes) / 2


NETWORKS = {"main": Sited(), "guide": Guide()}


def sampled(rule):
    sigmas = samplers.karras(4, 0.02, 80.0)
    return samplers.sample(NETWORKS, rule, samplers.euler(), sigmas, X, LABEL, keys(4))


def at_half(rule, take=slice(None), branches="fused"):
    evaluate = Evaluator(NETWORKS, X[take], jnp.float32(HALF), LABEL[take], branches)
    state = rule.init(X[take])
    holds = rule.at(HALF)
    return holds.apply(evaluate, X[take], jnp.float32(HALF), state, keys(4)[take])[0].denoised


def test_every_network_of_one_evaluation_sees_the_same_annealed_condition():
    # Were the noise another one for the guide, half the main prediction would not be its answer.
    reference, main = (
        at_half(cads(rule)) for rule in (guidance.autoguidance(0.0), guidance.unguided())
    )
    np.testing.assert_allclose(reference, main / 2, rtol=1e-5)


INNER = {
    "cfg": guidance.cfg(3.0),
    "autoguidance": guidance.autoguidance(2.0),
    "between": guidance.between(guidance.cfg(3.0), 0.2, 90.0),
    "closed": guidance.between(guidance.cfg(3.0), 0.2, 0.3),
    "together": guidance.together(guidance.cfg(2.0), guidance.autoguidance(1.5)),
    "icg": icg(2.0, classes=2),
    "icg embedding": icg(2.0, embedding=True),
    "tsg": tsg(2.0),
    "apg": guidance.apg(3.0),
}


@pytest.mark.parametrize("name", few(3, INNER))
def test_it_works_around_any_rule_at_no_cost(name):
    rule = cads(INNER[name])
    batch = at_half(rule)
    assert np.abs(batch - at_half(INNER[name])).max() > 0.001
    np.testing.assert_allclose(at_half(rule, branches="sequential"), batch, atol=1e-5)
    np.testing.assert_allclose(at_half(rule, slice(2, 3))[0], batch[2], atol=1e-5)
    assert guidance.cost(rule, [10.0, 0.1]) == guidance.cost(INNER[name], [10.0, 0.1])


def test_inside_together_it_anneals_its_own_rule_alone():
    rule = guidance.together(cads(guidance.cfg(2.0)), guidance.autoguidance(1.5))
    assert guidance.cost(rule, [1.0]) == [{"main": 3, "guide": 1}]
    assert np.isfinite(sampled(rule)).all()


def test_new_numbers_compile_nothing(compilations):
    def make(scale, *numbers):
        return cads(guidance.cfg(scale), *numbers, dynamic=True)

    first = sampled(make(3.0, 0.6, 0.9, 0.25, 1.0))
    changes = [(2.0, 0.6, 0.9, 0.25, 1.0), (3.0, 0.1, 0.8, 0.25, 1.0), (3.0, 0.6, 0.9, 0.5, 0.5)]
    with compilations() as compiled:
        others = [sampled(make(*numbers)) for numbers in changes]
    assert not compiled
    assert all(np.abs(other - first).max() > 1e-4 for other in others)


@pytest.mark.longer
def test_a_row_of_noises_runs_as_one_vmapped_program():
    noises = jnp.array([0.0, 0.1, 0.5])
    row = jax.vmap(lambda noise: sampled(cads(guidance.cfg(2.0), noise=noise)))(noises)
    for noise, result in zip(noises, row, strict=True):
        np.testing.assert_allclose(result, sampled(cads(guidance.cfg(2.0), noise=noise)), atol=1e-4)


@pytest.mark.longer
def test_types_are_kept_where_doubles_are_on(x64):
    x = X.astype(jnp.float32)
    rule = jax.tree.map(jnp.asarray, cads(guidance.cfg(2.0), dynamic=True))
    assert applied(rule, x, HALF, LABEL, keys(4)).dtype == jnp.float32
    narrow = EMBEDDING.astype(jnp.bfloat16)
    assert anneal(narrow, 0.5).dtype == jnp.bfloat16
    np.testing.assert_array_equal(anneal(narrow, 1.0), narrow)


def test_the_inner_rules_renoise_and_diagnostics_come_through():
    inner = guidance.Push(guidance.scale(2.0), guidance.Branch(condition="null"), renoise=True)
    evaluate = Evaluator(NETWORKS, X, jnp.float32(HALF), LABEL, "fused")
    guided, _ = cads(inner).apply(evaluate, X, jnp.float32(HALF), inner.init(X), keys(4))
    assert guided.renoise_from is not None
    assert set(guided.info) == {"push_norm"}


def test_ready_made_predictions_must_have_been_made_with_annealed_conditions():
    given, null = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    rule, key = cads(guidance.cfg(3.0)), jax.random.key(0)
    with pytest.raises(ValueError, match="cads needs the prediction 'given_annealed_condition'"):
        guidance.combine(rule, {"given": given, "null": null}, sigma=1.0, key=key)
    annealed = {"given_annealed_condition": given, "null": null}
    guided, _ = guidance.combine(rule, annealed, sigma=1.0, key=key)
    np.testing.assert_allclose(guided.denoised, null + 3 * (given - null), atol=1e-5)
    noised = cads(guidance.cfg(3.0), null_noised=True)
    with pytest.raises(ValueError, match="'null_annealed_condition'"):
        guidance.combine(noised, annealed, sigma=1.0, key=key)
    embedded = np.ones((3, 8), np.float32)
    with pytest.raises(ValueError, match="'given_annealed_condition'"):
        guidance.combine(
            rule, {"given": given, "null": null}, sigma=1.0, key=key, condition=embedded
        )


def test_a_network_without_a_condition_embedding_to_offer_is_refused():
    with pytest.raises(ValueError, match="asks for 'annealed_condition'"):
        applied(cads(guidance.cfg(2.0)), X, HALF, LABEL, keys(4), Labelled(weak))


def test_configs_express_the_rule():
    section = {
        "name": "cads",
        "rule": {"name": "cfg", "scale": 3.0},
        "noise": 0.1,
        "dynamic": True,
    }
    rule = guidance.from_config(section)
    assert rule == cads(guidance.cfg(3.0), noise=0.1, dynamic=True)
    assert guidance.to_config(rule) == section


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau1": 0.9, "tau2": 0.6}, "need 0 <= tau1 < tau2 <= 1"),
        ({"tau1": 0.6, "tau2": 0.6}, "need 0 <= tau1 < tau2 <= 1"),
        ({"tau2": 1.1}, "need 0 <= tau1 < tau2 <= 1"),
        ({"tau1": -0.1}, "need 0 <= tau1 < tau2 <= 1"),
        ({"tau1": float("nan")}, "tau1 must be a finite"),
        ({"noise": -0.1}, "noise must not be negative"),
        ({"mixing": 1.2}, "mixing must lie in"),
        ({"time": "edm"}, "time must be one of"),
    ],
)
def test_numbers_that_make_no_annealing_are_refused(options, message):
    with pytest.raises(ValueError, match=f"guidance.cads: {message}"):
        cads(guidance.cfg(2.0), **options)


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match="cads: rule takes a rule here, got a transform"):
        cads(guidance.scale(2.0))
