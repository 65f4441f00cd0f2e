"""Rules as nested dictionaries: an exact round trip, and refusals that say where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.rule_examples import CFG, EXAMPLES, rule

from guidestar import guidance
from guidestar.guidance.protocol import Branch
from guidestar.guidance.pushes import At, Push, chain

NULL, WEAK = {"name": "null"}, {"name": "weak", "network": "guide"}
SCALE = {"name": "scale", "scale": 3}
APG = (
    {"name": "momentum", "momentum": -0.5},
    {"name": "clip_norm", "norm": 2.5},
    {"name": "project", "eta": 0},
    SCALE,
)
NESTED = {
    "whole numbers stay whole": {"name": "cfg", "scale": 3},
    "a push": {"name": "push", "reference": NULL, "push": APG},
    "a push without transforms": {"name": "push", "reference": NULL, "push": ()},
    "apg on a weak network": {"name": "push", "reference": WEAK, "push": APG},
    "a chain in a push": {
        "name": "push",
        "reference": NULL,
        "push": ({"name": "chain", "transforms": APG[:2]}, SCALE),
    },
    "an interval around a push": {
        "name": "between",
        "rule": {"name": "push", "reference": WEAK, "push": APG},
        "low": 0.28,
        "high": 2,
    },
    "rules together": {
        "name": "together",
        "rules": (
            CFG,
            {
                "name": "between",
                "rule": {"name": "autoguidance", "scale": 1.5},
                "low": 0,
                "high": 1,
            },
        ),
    },
    "an interval around rules together": {
        "name": "between",
        "rule": {"name": "together", "rules": (CFG, {"name": "apg", "scale": 4.0, "eta": 0.1})},
        "low": 0.2,
        "high": float("inf"),
    },
    "lists of numbers and None": {
        "name": "frequency_decoupled",
        "scales": (5.0, 2),
        "parallel_weights": None,
    },
}
ALL = NESTED | {f"example of {name}": rule(name) for name in EXAMPLES}


def assert_equal_pytrees(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b) and np.array_equal(a, b)


@pytest.mark.parametrize("name", ALL)
def test_a_config_comes_back_as_it_was(name):
    made = guidance.from_config(ALL[name])
    back = guidance.to_config(made)
    assert back == ALL[name]
    assert_equal_pytrees(guidance.from_config(back), made)


@pytest.mark.parametrize(
    "made",
    [
        guidance.push(guidance.weak(), guidance.project(0.2), guidance.scale(2.0)),
        guidance.push(guidance.null()),
        guidance.push(Branch(network="other", condition="null"), guidance.scale(2.0)),
        Push(chain(guidance.scale(2.0)), At(Branch(network="guide"))),
        guidance.together(guidance.cfg(2.0), guidance.apg(3.0, norm=1.0)),
        guidance.cfg_and_autoguidance(2.0),
        guidance.between(guidance.cfg(scale=2.0, network="guide"), low=0, high=1.5),
    ],
)
def test_a_rule_made_by_hand_survives_its_config(made):
    assert_equal_pytrees(guidance.from_config(guidance.to_config(made)), made)


def test_lists_become_tuples():
    section = {"name": "push", "reference": NULL, "push": [SCALE]}
    assert guidance.to_config(guidance.from_config(section)) == section | {"push": (SCALE,)}


def test_a_config_holds_plain_numbers():
    for scale in (np.float32(1.5), jnp.float32(1.5), np.array(1.5)):
        section = guidance.to_config(guidance.cfg(scale))
        assert section["scale"] == 1.5 and type(section["scale"]) is float
    with pytest.raises(ValueError, match=r"cfg\.scale is an array of shape \(3,\)"):
        guidance.to_config(guidance.cfg(jnp.ones(3)))
    with pytest.raises(ValueError, match=r"cfg\.scale is an array"):
        jax.jit(lambda scale: len(guidance.to_config(guidance.cfg(scale))))(1.0)


def test_a_rule_that_was_changed_since_has_no_config():
    changed = jax.tree.map(lambda leaf: leaf + 1, guidance.cfg(2.0))
    with pytest.raises(ValueError, match="not made by a constructor"):
        guidance.to_config(changed)
    with pytest.raises(ValueError, match="not made by a constructor"):
        guidance.to_config(guidance.push(Branch(condition=3), guidance.scale(2.0)))


def pushing(*transforms):
    return {"name": "push", "reference": NULL, "push": transforms}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "cgf", "scale": 2.0}, r"guidance\.name 'cgf' is not one of .*mean .*cfg"),
        ({"scale": 2.0}, r"guidance\.name None is not one of"),
        ({}, r"guidance\.name None"),
        (CFG | {"scael": 1.0}, r"guidance: cfg has no argument 'scael'; it takes scale, network"),
        ({"name": "cfg"}, r"guidance: cfg needs the argument 'scale'"),
        ({"name": "together"}, r"guidance: together needs the argument 'rules'"),
        ({"name": "push", "reference": NULL}, r"push needs the argument 'push'"),
        ({"name": "cfg", "scale": (1.0, 2.0)}, r"guidance\.scale: cfg takes a number .*\(1\.0"),
        ({"name": "between", "rule": jnp.ones(3), "low": 1, "high": 2}, "between takes a rule"),
        ({"name": "cfg", "scale": "2"}, r"guidance\.scale: cfg takes a number .*'2'"),
        ({"name": "cfg", "scale": True}, r"guidance\.scale: cfg takes a number"),
        ({"name": "cfg", "scale": CFG}, r"guidance\.scale: cfg takes a number .*a rule \(cfg\)"),
        (CFG | {"network": 3}, r"guidance\.network: cfg takes a string here, got 3"),
        (pushing({"name": "channels", "count": 2.5}), r"push\.0\.count: channels takes a whole"),
        ({"name": "frequency_decoupled", "scales": 2.0}, r"frequency_decoupled takes a list here"),
        (SCALE, r"takes a rule here, got a transform of the push \(scale\); put it into"),
        (NULL, r"takes a rule here, got a reference \(null\)"),
        (
            {"name": "between", "rule": SCALE, "low": 0.1, "high": 1.0},
            r"guidance\.rule: between takes a rule here, got a transform of the push \(scale\)",
        ),
        (
            {"name": "between", "rule": {"scale": 2.0}, "low": 0.1, "high": 1.0},
            r"guidance\.rule: between takes a rule here, got {'scale'",
        ),
        (pushing(CFG), r"guidance\.push\.0: push takes a transform of the push here, got a rule"),
        (pushing(NULL), r"guidance\.push\.0: push takes a transform .* got a reference \(null\)"),
        (
            {"name": "push", "reference": SCALE, "push": ()},
            r"guidance\.reference: push takes a ref",
        ),
        ({"name": "push", "reference": NULL, "push": SCALE}, r"guidance\.push: push takes a list"),
        ({"name": "together", "rules": (CFG, SCALE)}, r"guidance\.rules\.1: together takes a rule"),
        ({"name": "together", "rules": ()}, "at least one rule"),
        ({"name": "reg", "rule": {"name": "unguided"}}, r"guidance\.rule: reg takes a push"),
        (pushing(SCALE, {"name": "projekt"}), r"guidance\.push\.1\.name 'projekt' .*mean project"),
        (
            pushing(SCALE, {"name": "project", "eta": float("nan")}),
            r"guidance\.push\.1: guidance\.project: eta must be a finite number",
        ),
        (
            {"name": "between", "rule": pushing({"name": "project"}), "low": 0.1, "high": 1.0},
            r"guidance\.rule\.push\.0: project needs the argument 'eta'",
        ),
        ({"name": "between", "rule": CFG, "low": 2.0, "high": 1.0}, "need 0 <= low < high"),
    ],
)
def test_a_wrong_config_is_refused_by_place_and_constructor(section, message):
    with pytest.raises(ValueError, match=message):
        guidance.from_config(section)


def test_building_leaves_the_config_alone():
    section = {"name": "push", "reference": dict(NULL), "push": [dict(SCALE)]}
    guidance.from_config(section)
    assert section == {"name": "push", "reference": NULL, "push": [SCALE]}
