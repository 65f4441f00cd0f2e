"""Rewards: their values, their gradients in rules, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys, mixture_denoiser, mixture_posterior

from guidestar import guidance
from guidestar.core.errors import UserError
from guidestar.evaluation import rewards
from guidestar.guidance import operators
from guidestar.models.checkpoints import load
from guidestar.samplers.evaluator import Evaluator

POSTERIOR = jax.tree_util.Partial(mixture_posterior)


def test_a_classifier_rewards_the_log_probability_of_the_class_asked_for():
    x, labels = jax.random.normal(jax.random.key(0), (5, 2)), jnp.array([0, 1, 1, 0, 1])
    every = jax.nn.log_softmax(mixture_posterior(x, 0.0))
    found = rewards.classifier(POSTERIOR)(x, labels, None)
    np.testing.assert_allclose(found, every[jnp.arange(5), labels], atol=1e-6)
    np.testing.assert_allclose(rewards.classifier(POSTERIOR, 1)(x, None, None), every[:, 1])
    with pytest.raises(ValueError, match="rewards.classifier: needs the class"):
        rewards.classifier(POSTERIOR)(x, None, None)


def test_a_classifier_is_named_by_its_weights():
    x, labels = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.array([0, 5, 9])
    loaded = load("digits_classifier")
    logits = jax.nn.log_softmax(loaded.network.module(loaded.params)(x))
    found = rewards.classifier("digits_classifier")(x, labels, None)
    np.testing.assert_allclose(found, logits[jnp.arange(3), labels], rtol=1e-6)
    with pytest.raises(UserError, match="digits is no classifier: name the weights of one"):
        rewards.classifier("digits")
    with pytest.raises(UserError, match="digits_classifer"):
        rewards.classifier("digits_classifer")


@pytest.mark.longer
def test_a_likelihood_is_what_rules_climb_for_its_measurement():
    operator, x = operators.matrix([[1.0, 0.5]]), jax.random.normal(jax.random.key(0), (4, 2))
    level, labels = jnp.float32(0.7), jnp.zeros(4, jnp.int32)
    evaluate = Evaluator({"main": mixture_denoiser()}, x, level, labels, "fused")
    by_reward = guidance.universal(rewards.likelihood(operator, [0.3], 0.5), scale=0.2)
    by_measurement = guidance.universal(operator, [0.3], 0.2 / 0.5**2)
    one, two = (
        rule.apply(evaluate, x, level, (), keys(4))[0].denoised
        for rule in (by_reward, by_measurement)
    )
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.untyped
def test_rewards_of_nothing_are_refused():
    with pytest.raises(ValueError, match="rewards.classifier: network must be callable"):
        rewards.classifier(3)
    with pytest.raises(ValueError, match="rewards.likelihood: operator has no method"):
        rewards.likelihood(None, [1.0])
    with pytest.raises(ValueError, match="rewards.likelihood: noise must be above 0"):
        rewards.likelihood(operators.gray(), [1.0], 0.0)
    with pytest.raises(ValueError, match="rewards.host: function must be callable"):
        rewards.host(3)
    with pytest.raises(ValueError, match="rewards.weighted: 1 rewards and 2 weights"):
        rewards.weighted([rewards.host(len)], [1.0, 2.0])
    for make in (rewards.rank_mean, lambda several: rewards.weighted(several, [])):
        with pytest.raises(ValueError, match="rewards is empty"):
            make([])


@jax.tree_util.Partial
def none(x, sigma):
    return jnp.zeros((len(x), 2))


@pytest.mark.longer
def test_ranks_are_within_groups_and_equals_share_theirs():
    values = np.array([3.0, 1.0, 2.0, 5.0, 5.0, -1.0])
    one = rewards.host(lambda x0, condition: x0[:, 0])
    other = rewards.host(lambda x0, condition: -x0[:, 0])
    x = jnp.asarray(values)[:, None]
    ranks = rewards.rank_mean([one], group=3)(x, None, None)
    np.testing.assert_array_equal(ranks, [2, 0, 1, 1.5, 1.5, 0])
    whole = rewards.rank_mean([one])(x, None, None)
    np.testing.assert_array_equal(whole, [3, 1, 2, 4.5, 4.5, 0])
    np.testing.assert_array_equal(rewards.rank_mean([one, other], group=3)(x, None, None), 1)
    with pytest.raises(ValueError, match="rank_mean: 6 samples are no whole number of groups of 4"):
        rewards.rank_mean([one], group=4)(x, None, None)


def test_a_weighted_reward_is_the_sum_and_has_a_gradient_where_all_have():
    x, labels = jax.random.normal(jax.random.key(0), (5, 2)), jnp.array([0, 1, 1, 0, 1])
    one, other = rewards.classifier(POSTERIOR), rewards.classifier(POSTERIOR, 1)
    both = rewards.weighted([one, other], [2.0, -0.5])
    expected = 2 * one(x, labels, None) - 0.5 * other(x, labels, None)
    np.testing.assert_allclose(both(x, labels, None), expected, rtol=1e-6)
    assert both.differentiable
    assert not rewards.weighted([one, rewards.host(len)], [1.0, 1.0]).differentiable


def test_a_reward_on_the_host_sees_arrays_and_has_no_gradient():
    seen = []

    def scored(x0, condition):
        seen.append((type(x0), type(condition), x0.shape))
        return x0.sum(axis=1) + condition

    reward = rewards.host(scored)
    x, labels = jnp.arange(6.0).reshape(3, 2), jnp.array([0, 1, 2])
    found = jax.jit(lambda x: reward(x, labels, None))(x)
    np.testing.assert_array_equal(found, [1, 6, 11])
    assert seen == [(np.ndarray, np.ndarray, (3, 2))]
    with pytest.raises(ValueError, match="universal: the reward host has no gradient"):
        guidance.universal(reward, scale=0.2)
    with pytest.raises(Exception, match="must return one number a sample"):
        rewards.host(lambda x0, condition: x0)(x, labels, None)


class Doubling:
    """Stand for an autoencoder: images of twice the size."""

    def decode(self, latents, scaling):
        return latents.repeat(2, axis=1).repeat(2, axis=2) * scaling


def test_a_decoded_reward_is_asked_of_images():
    shapes = []
    reward = rewards.host(lambda x0, condition: shapes.append(x0.shape) or x0.sum(axis=(1, 2, 3)))
    found = rewards.decoded(reward, Doubling(), 3.0)(jnp.ones((2, 4, 4, 1)), None, None)
    np.testing.assert_array_equal(found, 3 * 64.0)
    assert shapes == [(2, 8, 8, 1)]
    assert rewards.decoded(rewards.classifier(none), Doubling(), 3.0).differentiable
    assert not rewards.decoded(reward, Doubling(), 3.0).differentiable
