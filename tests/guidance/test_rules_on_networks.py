"""Every rule on every kind of denoiser: a transformer, a score network, an exact mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, keys, mixture_denoiser, mixture_posterior, weak
from oracles.toy_network import toy_classifier
from tables.everyday import rows
from tables.rule_table import (
    ATTENTION,
    BLOCK,
    CLASSIFIER,
    CONDITION,
    CROPS,
    EVERY,
    GRADIENT,
    GUIDE,
    IMAGES,
    LABELS,
    READ,
    RULES,
    TIME,
    WIDE,
)

from guidestar.models import builders
from guidestar.samplers.evaluator import Evaluator

SIGMA, BATCH = 1.0, 4
LABELLED = jnp.array([0, 1, 1, 0])


def random_denoiser(seed, **model):
    """Return a network whose every parameter is random: nothing is zero as it starts."""
    spec = builders.build(model)
    params = spec.initialise(jax.random.key(seed))
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: a + 0.2 * random.normal(size=a.shape).astype(a.dtype), params)
    return spec.denoiser(params)


def dit(seed):
    return random_denoiser(
        seed,
        name="dit",
        image_size=4,
        channels=1,
        num_classes=2,
        patch_size=1,
        width=16,
        depth=2,
        heads=2,
    )


def unet(seed):
    return random_denoiser(
        seed,
        name="song_unet",
        image_size=4,
        channels=1,
        num_classes=2,
        model_channels=8,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(4,),
    )


# name -> (networks, shape of a sample, condition, what the networks offer)
DENOISERS = {
    "DiT": (
        {"main": dit(0), "guide": dit(1), "classifier": toy_classifier},
        (4, 4, 1),
        LABELLED,
        {LABELS, GUIDE, CLASSIFIER, GRADIENT, IMAGES, CROPS, TIME, CONDITION, ATTENTION, BLOCK}
        | {WIDE, READ},
    ),
    "SongUNet": (
        {"main": unet(0), "guide": unet(1), "classifier": toy_classifier},
        (4, 4, 1),
        LABELLED,
        {LABELS, GUIDE, CLASSIFIER, GRADIENT, IMAGES, CROPS, TIME, CONDITION, ATTENTION, BLOCK}
        | {WIDE, READ},
    ),
    "score MLP": (
        {
            "main": random_denoiser(0, name="score_mlp", hidden=8),
            "guide": random_denoiser(1, name="score_mlp", hidden=8),
            "classifier": toy_classifier,
        },
        (2,),
        None,
        {GUIDE, GRADIENT, TIME, BLOCK},
    ),
    "mixture": (
        {"main": mixture_denoiser(), "guide": Labelled(weak), "classifier": mixture_posterior},
        (2,),
        LABELLED,
        {LABELS, GUIDE, CLASSIFIER, GRADIENT},
    ),
}
# Of another network of images, what its own sites and its shapes could change.
INSIDE = {TIME, CONDITION, ATTENTION, BLOCK, CROPS, GUIDE}
EVERY_PAIR = [
    (network, name)
    for network in DENOISERS
    for name in RULES
    if network != "SongUNet" or RULES[name].needs & INSIDE
]


def predict(network, rule, rows=slice(None), counted=None):
    """Apply a rule once, to some rows of a batch."""
    networks, shape, condition, _ = DENOISERS[network]
    if counted is not None:
        networks = {name: _counting(one, name, counted) for name, one in networks.items()}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, *shape)), jnp.float32)[rows]
    condition = None if condition is None else condition[rows]
    level = jnp.float32(SIGMA)
    evaluate = Evaluator(networks, x, level, condition, "fused", end=level / 2)
    holds = rule.at(SIGMA)
    return holds.apply(evaluate, x, level, rule.init(x), keys(BATCH)[rows])[0].denoised


@functools.cache
def unguided(network):
    """Return the plain prediction, which every rule is compared with."""
    return predict(network, EVERY["unguided"])


def _counting(network, name, counted):
    def call(x, *arguments, **options):
        counted[name] = counted.get(name, 0) + x.shape[0]
        return network(x, *arguments, **options)

    for attribute in ("null_condition", "sites"):
        if hasattr(network, attribute):
            setattr(call, attribute, getattr(network, attribute))
    return call


def refusal(network, one):
    """Return what the message says when the networks lack something, None when all is there."""
    offers = DENOISERS[network][3]
    missing = one.needs - offers
    for site in (ATTENTION, BLOCK, CONDITION, TIME):
        if site in missing:
            return site
    if CLASSIFIER in missing:
        return "label"
    if IMAGES in missing:
        return "image|tokens"
    if WIDE in missing:
        return "std_scaling"
    if READ in missing:
        return "by a gradient of its own"
    return None


# Each day some ways to reach a network on a transformer, and on the others one.
ON_A_TRANSFORMER, ELSEWHERE = {"cfg", "tsg", "pag"}, {"cfg"}


@pytest.mark.parametrize(
    ("network", "name"),
    rows(EVERY_PAIR, lambda n, r: r in (ON_A_TRANSFORMER if n == "DiT" else ELSEWHERE)),
)
def test_a_rule_holds_its_properties_on_every_denoiser(network, name):
    one = RULES[name]
    rule = one.make(one.typical)
    if (message := refusal(network, one)) is not None:
        with pytest.raises(ValueError, match=message):
            predict(network, rule)
        return
    plain, counted = unguided(network), {}
    result = predict(network, rule, counted=counted)
    assert result.shape == plain.shape and np.isfinite(result).all()
    assert {key: rows // BATCH for key, rows in counted.items()} == one.forward
    for row in (0, 2):
        alone = predict(network, rule, slice(row, row + 1))
        np.testing.assert_allclose(alone[0], result[row], rtol=1e-4, atol=1e-4)
    if one.off is not None:
        np.testing.assert_allclose(predict(network, one.make(one.off)), plain, atol=1e-4)
    # A network without classes answers the null condition like any other.
    if not (LABELS in one.needs and LABELS not in DENOISERS[network][3]) or GUIDE in one.needs:
        first_step_is_plain = name.startswith("higs")
        assert first_step_is_plain or np.abs(result - plain).max() > 1e-5
