"""Rewards: their values, their gradients in rules, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys, mixture_denoiser, mixture_posterior

from guidestar import guidance
from guidestar.evaluation import rewards
from guidestar.guidance import operators
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
        rewards.classifier("classifier")
    with pytest.raises(ValueError, match="rewards.likelihood: operator has no method"):
        rewards.likelihood(None, [1.0])
    with pytest.raises(ValueError, match="rewards.likelihood: noise must be above 0"):
        rewards.likelihood(operators.gray(), [1.0], 0.0)
