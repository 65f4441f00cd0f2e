"""Values of a wrong kind, to every constructor and to `combine`: refused in the owner's name."""

import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.rule_examples import EXAMPLES

from guidestar import guidance
from guidestar.guidance.config import CONSTRUCTORS
from guidestar.guidance.protocol import Guided

NAN = float("nan")
# What is no number, whatever the constructor; what is no part of a kind, by the annotation's word.
NO_NUMBERS = ["3", True, None, object(), {}, np.array("3"), np.array(True), math.sqrt]
RULE, TRANSFORM, REFERENCE = guidance.unguided(), guidance.scale(2.0), guidance.null()
WRONG_PARTS = {
    "Rule": (TRANSFORM, REFERENCE),
    "Push": (TRANSFORM, REFERENCE, RULE, guidance.between(guidance.cfg(2.0), 0.1, 1.0)),
    "Transform": (RULE, REFERENCE),
    "Reference": (RULE, TRANSFORM),
    "Operator": (RULE, TRANSFORM),
}


def built(value):
    """Return what a value of an example stands for."""
    if isinstance(value, dict) and "name" in value:
        given = {key: one for key, one in value.items() if key != "name"}
        return called(value["name"], {key: built(one) for key, one in given.items()})
    return tuple(map(built, value)) if isinstance(value, tuple) else value


def called(name, arguments):
    parameters = CONSTRUCTORS[name].parameters
    first, rest = [], dict(arguments)
    for key, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            before = list(parameters)[: list(parameters).index(key)]
            first = [rest.pop(one) for one in before] + list(rest.pop(key))
    return CONSTRUCTORS[name].build(*first, **rest)


def wrong_values(parameter):
    """Return values that an argument must refuse, by what its annotation and default say."""
    wanted = str(inspect.formatannotation(parameter.annotation))
    kind = next((word for word in WRONG_PARTS if re.search(rf"\.{word}\b", wanted)), None)
    if kind:
        return [*WRONG_PARTS[kind], guidance.cfg, "cfg", 2.0, None, {"name": "cfg"}]
    number = "float" in wanted or "int" in wanted
    wrong = (
        NO_NUMBERS if number else [3, 2.5, True, object()] if "str" in wanted else ["x", 1, None]
    )
    if "Sequence" in wanted or "tuple" in wanted:
        wrong = [-3, "12", *((one,) for one in wrong)]
    elif number:
        wrong = [*wrong, NAN, np.float32(NAN), jnp.float32(NAN)] if "float" in wanted else wrong
    if parameter.default is None:
        wrong = [one for one in wrong if one is not None]
    return wrong


CASES = [
    pytest.param(name, key, value, id=f"{name} {key} {number}")
    for name in EXAMPLES
    for key, parameter in CONSTRUCTORS[name].parameters.items()
    for number, value in enumerate(wrong_values(parameter))
]


@pytest.mark.untyped
@pytest.mark.parametrize(("name", "key", "value"), CASES)
def test_every_constructor_refuses_values_of_another_kind(name, key, value):
    arguments = {one: built(given) for one, given in EXAMPLES[name].items()}
    if isinstance(value, tuple) and isinstance(arguments.get(key), tuple):
        value = (*value, *arguments[key][1:])
    several = CONSTRUCTORS[name].parameters[key].kind is inspect.Parameter.VAR_POSITIONAL
    with pytest.raises((TypeError, ValueError), match=rf"^guidance\.{name}: .*{key}") as raised:
        called(name, arguments | {key: (value,) if several else value})
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def arrays(shape=(2, 4, 4, 3), dtype=np.float32):
    given = np.linspace(0, 250, math.prod(shape)).reshape(shape)
    return {"given": given.astype(dtype), "null": given[::-1].astype(dtype)}


@pytest.mark.parametrize("kind", [np.uint8, np.int32, bool, np.complex64])
def test_predictions_that_are_no_floating_point_arrays_are_refused(kind):
    with pytest.raises(ValueError, match="combine: given is an array of .* floating-point arrays"):
        guidance.combine(guidance.cfg(2.0), arrays(dtype=kind))
    with pytest.raises(ValueError, match="combine: x is an array of"):
        guidance.combine(guidance.cfg(2.0), arrays(), x=np.ones((2, 4, 4, 3), kind))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(key=0), "combine: 0 is no random key: make one by"),
        (dict(key="a"), "combine: 'a' is no random key"),
        (dict(key=jax.random.key(0, impl="rbg")), "combine: the key is of the generator rbg"),
        (dict(key=jax.random.split(jax.random.key(0), 3)), "one per sample"),
        (dict(sigma="1"), "combine: sigma must be one noise level, 0 or more, got '1'"),
        (dict(sigma=-1.0), "combine: sigma must be one noise level"),
        (dict(sigma=NAN), "combine: sigma must be one noise level"),
        (dict(sigma=np.ones(2)), r"combine: sigma must be one noise level.*float64\[2\]"),
        (dict(predictions=np.ones((2, 4))), "combine: predictions must be a dictionary"),
        (dict(predictions={}), "no predictions given"),
        (dict(rule=guidance.scale(2.0)), "combine: rule takes a rule here, got a transform"),
        (dict(rule=guidance.cfg), "combine: rule takes a rule here, got the function cfg itself"),
        (dict(rule="cfg"), "combine: rule takes a rule here, got 'cfg'"),
    ],
)
def test_combine_refuses_what_it_cannot_use(options, message):
    options = dict(rule=guidance.cfg(2.0), predictions=arrays()) | options
    with pytest.raises(ValueError, match=message):
        guidance.combine(**options)


# Rules by the numbers that multiply predictions.
SCALED = {
    "scale": lambda s: guidance.cfg(s),
    "eta": lambda s: guidance.apg(2.0, eta=s),
    "momentum": lambda s: guidance.apg(2.0, momentum=s),
    "norm": lambda s: guidance.apg(2.0, norm=s),
    "phi": lambda s: guidance.cfg_rescale(2.0, s),
    "alpha": lambda s: guidance.magnitude_aware(2.0, s),
    "floor": lambda s: guidance.scheduled_cfg(2.0, floor=s),
    "scales": lambda s: guidance.frequency_decoupled((2.0, s)),
    "bound": lambda s: guidance.static_threshold(guidance.cfg(2.0), s),
    "weight": lambda s: guidance.higs(guidance.cfg(2.0), weight=s),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("samples", [2, 3])
def test_a_row_of_numbers_is_refused_also_where_there_are_as_many_channels(name, samples):
    predictions = arrays((samples, 4, 4, 3))
    with pytest.raises(ValueError, match=rf"{name} has shape \({samples},\) .*\[batch, 1, 1, 1\]"):
        guidance.combine(SCALED[name](np.full(samples, 0.5, np.float32)), predictions)
    with pytest.raises(ValueError, match=rf"{name} has shape \(5, 1, 1, 1\)"):
        guidance.combine(SCALED[name](np.full((5, 1, 1, 1), 0.5, np.float32)), predictions)


@pytest.mark.parametrize("name", SCALED)
def test_one_number_a_sample_is_what_it_is_for_each_sample_alone(name):
    numbers = np.array([0.5, 1.5, 0.25], np.float32)
    predictions = {key: one / 250 for key, one in arrays((3, 4, 4, 3)).items()}
    together, _ = guidance.combine(SCALED[name](numbers[:, None, None, None]), predictions)
    for i, number in enumerate(numbers):
        own = {key: one[i : i + 1] for key, one in predictions.items()}
        alone, _ = guidance.combine(SCALED[name](float(number)), own)
        np.testing.assert_allclose(together.denoised[i], alone.denoised[0], rtol=1e-5, atol=1e-5)


def test_numbers_of_time_are_one_for_all():
    rule = guidance.cads(guidance.cfg(2.0), np.array([0.1, 0.2]), 0.9)
    with pytest.raises(ValueError, match=r"tau1 has shape \(2,\): give one number for all"):
        guidance.combine(rule, arrays(), sigma=1.0, key=jax.random.key(0))


def test_parts_are_shown_as_the_calls_that_make_them():
    rule = guidance.between(
        guidance.push(guidance.weak(), guidance.momentum(-0.5), guidance.scale(2.0)), 0.3, high=3.0
    )
    assert repr(rule) == "between(push(weak(), momentum(-0.5), scale(2.0)), low=0.3, high=3.0)"
    assert eval(repr(rule), vars(guidance).copy()) == rule
    large = guidance.cfg(np.ones((64, 1, 1, 1)))
    assert repr(large) == "cfg(float64[64, 1, 1, 1])"
    assert len(repr(jax.tree.map(lambda leaf: leaf + 1, large))) < 200


def test_guided_still_stands_for_its_prediction():
    assert np.asarray(Guided(jnp.ones(2))).sum() == 2
