"""What rules need to do anything: conditions, null conditions, noise levels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.rule_table import EVERY, LABELS, RULES

from guidestar import guidance, samplers
from guidestar.core.pytrees import pytree
from guidestar.guidance.protocol import Branch, Guided
from guidestar.samplers.evaluator import Evaluator

SHAPE = (4, 4, 3)
CFG = guidance.cfg(2.0)
SIGMAS = samplers.karras(8)


@pytest.mark.parametrize("name", [name for name, one in RULES.items() if one.reference])
def test_what_needs_the_null_condition_is_what_asks_for_it(name):
    reference = RULES[name].reference
    network = {"null": "main", "guide_null": "guide"}.get(reference)
    assert guidance.needs_null(EVERY[name], SHAPE) == frozenset([network] if network else [])


@pytest.mark.parametrize("name", EVERY)
def test_rules_without_labels_need_no_condition_and_no_null_one(name):
    if name in RULES and LABELS in RULES[name].needs:
        return
    assert not guidance.needs_condition(EVERY[name], SHAPE)
    assert not guidance.needs_null(EVERY[name], SHAPE)


@pytest.mark.parametrize(
    ("rule", "idle"),
    [
        (CFG, ("cfg(2.0)",)),
        (guidance.apg(4.0), ("apg(4.0)",)),
        (guidance.fkc(2.0), ("fkc(2.0)",)),
        (guidance.cfg(2.0, network="uncond"), ()),
        (guidance.domain(2.0), ()),
        (guidance.icg(2.0, 10), ()),
        (guidance.compose_and(["given"], [2.0]), ("compose_and(['given'], scales=[2.0])",)),
        (guidance.compose_and(["given", 1], [2.0, 1.0]), ()),
        (guidance.instruct(), ("instruct()",)),
        (guidance.classifier(1.0), ("classifier(1.0)",)),
        (guidance.together(CFG, guidance.autoguidance(2.0)), ("cfg(2.0)",)),
        (guidance.between(guidance.higs(CFG), 0.1, 1.0), ("cfg(2.0)",)),
        (guidance.reg(CFG), ("cfg(2.0)",)),
        (guidance.unguided(), ()),
    ],
)
def test_rules_with_nothing_to_drop_need_a_condition(rule, idle):
    assert guidance.needs_condition(rule, SHAPE) == idle


def test_what_needs_a_condition_does_nothing_without_one():
    x, keys = jax.random.normal(jax.random.key(0), (2, 4)), jax.random.split(jax.random.key(1), 2)

    def denoise(x, sigma, condition):
        return x / (1 + sigma**2) if condition is None else x / 2

    evaluate = Evaluator({"main": denoise}, x, jnp.float32(1.0), None, "sequential")
    guided, _ = CFG.apply(evaluate, x, jnp.float32(1.0), (), keys)
    np.testing.assert_array_equal(guided.denoised, denoise(x, 1.0, None))


def test_the_null_condition_is_found_at_whichever_noise_level_it_is_asked_for():
    rule = guidance.stitched(guidance.between(CFG, 0.5, 1.0), "small", low=2.0)
    assert guidance.needs_null(rule, SHAPE) == {"main"}
    rule = guidance.stitched(CFG, "small", low=2.0)
    assert guidance.needs_null(rule, SHAPE) == {"main", "small"}
    assert guidance.needs_null(guidance.instruct(), SHAPE) == {"main"}


def test_a_rule_from_outside_answers_too():
    @pytree
    class Mine:
        scale: float

        def init(self, x):
            return ()

        def apply(self, evaluate, x, sigma, state, key):
            given, null = evaluate((Branch(), Branch(condition="null")))
            return Guided(null + self.scale * (given - null)), state

        def at(self, sigma):
            return self

    assert guidance.needs_condition(Mine(2.0), SHAPE) == ("Mine(scale=2.0)",)
    assert guidance.needs_null(guidance.between(Mine(2.0), 0.1, 1.0), SHAPE) == {"main"}
    assert dataclasses.is_dataclass(Mine)


@pytest.mark.parametrize(
    ("rule", "idle"),
    [
        (CFG, ()),
        (guidance.between(CFG, 0.3, 3.0), ()),
        (guidance.between(CFG, 0.3, 0.31), ("between(cfg(2.0), low=0.3, high=0.31)",)),
        (guidance.between(CFG, 80.0, 90.0), ("between(cfg(2.0), low=80.0, high=90.0)",)),
        (guidance.between(CFG, 79.0, 80.0), ()),
        (
            guidance.together(CFG, guidance.between(guidance.autoguidance(2.0), 0.3, 0.31)),
            ("between(autoguidance(2.0), low=0.3, high=0.31)",),
        ),
        (
            guidance.between(guidance.between(CFG, 5.0, 80.0), 0.1, 3.0),
            ("between(cfg(2.0), low=5.0, high=80.0)",),
        ),
        (
            guidance.stitched(CFG, "small", 100.0),
            ("stitched(cfg(2.0), network='small', low=100.0)",),
        ),
        (guidance.stitched(guidance.between(CFG, 0.1, 5.0), "small", 20.0), ()),
        (guidance.cads(CFG, 0.98, 0.99), ("cads(cfg(2.0), tau1=0.98, tau2=0.99)",)),
        (guidance.cads(CFG), ()),
        (guidance.higs(CFG, window=(0.97, 0.98)), ("higs(cfg(2.0), window=(0.97, 0.98))",)),
        (guidance.higs(CFG), ()),
        (
            guidance.reuse(CFG, 3, high=0.001),
            ("reuse(cfg(2.0), every=3, high=0.001)",),
        ),
        (guidance.reuse(CFG), ()),
    ],
)
def test_an_interval_without_a_step_is_found(rule, idle):
    assert guidance.idle_parts(rule, SIGMAS) == idle


def test_intervals_of_traced_numbers_count_as_held():
    found = []
    jax.jit(lambda tau: found.append(guidance.idle_parts(guidance.cads(CFG, tau), SIGMAS)) or tau)(
        0.98
    )
    assert found == [()]
