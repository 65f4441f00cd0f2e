"""Every reference with every transform, and every transform after every other."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from oracles.toy_network import NETWORKS
from tables.everyday import rows

from guidestar import guidance, samplers
from guidestar.core.constructors import origin
from guidestar.guidance.config import CONSTRUCTORS
from guidestar.samplers.evaluator import Evaluator

SHAPE, CONDITION, SIGMAS = (3, 4, 4, 2), jnp.array([0, 1, 0]), (2.0, 1.0)
REFERENCES = {
    "null": guidance.null(),
    "weak": guidance.weak(),
    "independent": guidance.independent(2),
    "independent, embedding": guidance.independent(embedding=True),
    "perturbed_time": guidance.perturbed_time(),
    "identity_attention": guidance.identity_attention((1,)),
    "blurred_queries": guidance.blurred_queries((0,), 2.0),
    "attention_temperature": guidance.attention_temperature((0, 1), 0.2),
    "skipped_blocks": guidance.skipped_blocks((1,)),
    "permuted_tokens": guidance.permuted_tokens((0,)),
    "sliding_windows": guidance.sliding_windows(3),
    "negative_condition": guidance.negative_condition(0),
    "and": guidance.compose_and(["given", 1], [1.0, 0.5]).reference,
    "not": guidance.compose_not(2.0, 0).reference,
    "perp_neg": guidance.perp_neg(2.0, [0]).reference,
    "classifier_gradient": guidance.classifier_gradient(),
    "calibrated_classifier": guidance.calibrated_classifier(),
    "confused_class": guidance.confused_class(),
}
SCALE = guidance.scale(2.5)
TRANSFORMS = {
    "momentum": guidance.momentum(-0.5),
    "clip_norm": guidance.clip_norm(0.05),
    "project": guidance.project(0.3),
    "std_rescale": guidance.std_rescale(0.7),
    "scheduled": guidance.scheduled(3.0, "cosine"),
    "optimal_scale": guidance.optimal_scale(),
    "tangential": guidance.tangential(),
    "frequency_scales": guidance.frequency_scales((4.0, 3.0), (0.5, 1.0)),
    "damp_magnitude": guidance.damp_magnitude(0.5),
    "energy_preserving": guidance.energy_preserving(),
    "channels": guidance.channels(1),
    "zero_init": guidance.zero_init(5),
}
# What comes before it is gone: the velocity is zero whatever the push was.
OVERRIDES = {"zero_init"}
# The first changes the length of the push, or of where it leads, and the second sets that length:
# the first is gone.
ABSORBED = {
    ("std_rescale", "energy_preserving"),
    ("scheduled", "clip_norm"),
    ("damp_magnitude", "clip_norm"),
}
GUIDED = {}


def second_prediction(rule):
    """Return a rule's prediction at its second noise level, its state carried from the first."""
    rule = guidance.along(rule, SIGMAS)
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
    state = rule.init(x)
    for number, sigma in enumerate(SIGMAS):
        level = jnp.float32(sigma)
        evaluate = Evaluator(NETWORKS, sigma * x, level, CONDITION, "fused")
        holds = rule.at(sigma)
        result, state = holds.apply(evaluate, sigma * x, level, state, keys(SHAPE[0], number))
    return result.denoised


def alone(kind, name):
    """Return the prediction of one part: a reference scaled, or a transform on the null push."""
    if (kind, name) not in GUIDED:
        if kind == "reference":
            rule = guidance.push(REFERENCES[name], SCALE)
        else:
            rule = guidance.push(REFERENCES["null"], TRANSFORMS[name], SCALE)
        GUIDED[kind, name] = second_prediction(rule)
    return GUIDED[kind, name]


def differ(a, b):
    return np.abs(a - b).max() > 1e-4


def check_cost(rule, reference):
    (counted,) = guidance.cost(rule, [1.0], SHAPE[1:])
    assert counted == guidance.cost(guidance.push(reference, SCALE), [1.0], SHAPE[1:])[0]
    planned = samplers.plan(samplers.euler(), np.array([2.0, 1.0]), rule, SHAPE[1:])
    assert planned.totals == counted


# Each day all transforms and wrappers on one reference.
KINDS = ("weak",)


@pytest.mark.parametrize(
    ("reference", "transform"),
    rows(
        itertools.product(REFERENCES, TRANSFORMS),
        lambda reference, transform: reference in KINDS,
    ),
)
def test_every_transform_works_on_every_reference(reference, transform):
    rule = guidance.push(REFERENCES[reference], TRANSFORMS[transform], SCALE)
    result = second_prediction(rule)
    assert result.shape == SHAPE and np.isfinite(result).all()
    if transform not in OVERRIDES:
        assert differ(result, alone("reference", reference)), "the transform did nothing"
    if reference != "null" and transform not in OVERRIDES:
        assert differ(result, alone("transform", transform)), "the reference changed nothing"
    check_cost(rule, REFERENCES[reference])


@pytest.mark.parametrize(
    ("first", "second"),
    rows(
        itertools.permutations(TRANSFORMS, 2), lambda first, second: "momentum" in (first, second)
    ),
)
def test_every_transform_works_after_every_other(first, second):
    rule = guidance.push(REFERENCES["null"], TRANSFORMS[first], TRANSFORMS[second], SCALE)
    result = second_prediction(rule)
    assert result.shape == SHAPE and np.isfinite(result).all()
    if second not in OVERRIDES:
        assert differ(result, alone("transform", first)), f"{second} did nothing"
        if first not in OVERRIDES and (first, second) not in ABSORBED:
            assert differ(result, alone("transform", second)), f"{first} was lost"
    check_cost(rule, REFERENCES["null"])


WRAPPERS = {
    "between": lambda rule: guidance.between(rule, 0.5, 1.5),
    "together": lambda rule: guidance.together(rule, guidance.autoguidance(1.7)),
    "cads": lambda rule: guidance.cads(rule, 0.1, 0.6, null_noised=True),
    "higs": lambda rule: guidance.higs(rule, 2.0, window=(0.1, 1.0)),
    "static_threshold": lambda rule: guidance.static_threshold(rule, 0.5),
    "dynamic_threshold": lambda rule: guidance.dynamic_threshold(rule, 0.9, 0.5),
}
# The first evaluation, outside the interval, leaves no trace in a rule without a state.
UNTOUCHED = {"between"}


@pytest.mark.parametrize(
    ("reference", "wrapper"),
    rows(
        itertools.product(REFERENCES, WRAPPERS),
        lambda reference, wrapper: reference in KINDS,
    ),
)
def test_every_wrapper_works_around_every_reference(reference, wrapper):
    rule = WRAPPERS[wrapper](guidance.push(REFERENCES[reference], SCALE))
    result = second_prediction(rule)
    assert result.shape == SHAPE and np.isfinite(result).all()
    if wrapper not in UNTOUCHED:
        assert differ(result, alone("reference", reference)), "the wrapper did nothing"
    plain = second_prediction(WRAPPERS[wrapper](guidance.unguided()))
    assert differ(result, plain), "the push inside was lost"


# They move another prediction than the plain one, which is all that reuse evaluates.
UNPLAIN = {"classifier_gradient", "calibrated_classifier"}


@pytest.mark.parametrize("reference", rows(REFERENCES, lambda reference: reference in KINDS))
def test_every_reference_with_a_plain_prediction_is_reused(reference):
    rule = guidance.reuse(guidance.push(REFERENCES[reference], SCALE))
    if reference in UNPLAIN:
        with pytest.raises(TypeError, match="asks for no plain prediction"):
            second_prediction(rule)
        return
    result = second_prediction(rule)
    assert np.isfinite(result).all()
    assert differ(result, alone("reference", reference)), "the reference was evaluated"
    assert differ(result, second_prediction(guidance.unguided())), "the push was lost"
    assert guidance.cost(rule, SIGMAS, SHAPE[1:])[1] == {"main": 1}


def test_the_tables_hold_every_part_of_the_library():
    docs = {
        name: one.build.__doc__
        for name, one in ((name, CONSTRUCTORS[name]) for name in CONSTRUCTORS)
    }
    transforms = {name for name, doc in docs.items() if doc.startswith("Return the transform ")}
    # Those whose first line says what they compute instead.
    transforms |= {"momentum", "clip_norm", "project", "std_rescale", "energy_preserving"}
    assert transforms - {"scale"} <= set(TRANSFORMS)
    references = {name for name, doc in docs.items() if doc.startswith("Return the reference")}
    made = {origin(one).constructor.name for one in REFERENCES.values() if origin(one)}
    assert references <= made
