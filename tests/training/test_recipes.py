"""Recipes from configs: every part by name, published ones, and a refusal for what cannot work."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tables.everyday import few
from tiny_configs.configs import recipe, tiny

from guidestar.commands.train import run as train
from guidestar.configs import common
from guidestar.core.errors import UserError
from guidestar.models import builders
from guidestar.models.checkpoints.files import unflatten
from guidestar.training import recipes
from guidestar.training.setup import parameters_key
from guidestar.training.state import initial_state, make_step

part = common.part
DIT = {}
HYBRID = dict(learn_variance=True, preconditioner="discrete")
SONG = dict(name="song_unet", image_size=8, channels=1, num_classes=10) | dict(
    model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=(), dropout=0.1
)
EDM2 = dict(name="edm2_unet", image_size=8, channels=1, num_classes=10) | dict(
    model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=(), channels_per_head=8
)
UMD = dict(name="umd", image_size=8, channels=1, num_classes=10, patch_size=2) | dict(
    width=8, depth=1, decoder_depth=1, heads=2
)

# name -> (fields of the model, sections of training)
RECIPES = {
    "edm": (SONG | dict(augment_dim=9), dict(augmentation=part("edm", probability=0.12))),
    "edm2": (
        EDM2,
        dict(loss=part("uncertainty"), noise=part("log_normal", mean=-0.4, std=1.0)),
    ),
    "vp": (DIT | dict(preconditioner="vp"), dict(noise=part("vp_times"))),
    "ve": (DIT | dict(preconditioner="ve"), dict(noise=part("log_uniform"))),
    "iddpm": (DIT | dict(preconditioner="iddpm"), dict(noise=part("iddpm_levels"))),
    "dit": (HYBRID, dict(loss=part("hybrid"), noise=part("discrete"))),
    "sit": (
        dict(preconditioner="flow"),
        dict(loss=part("flow_matching"), noise=part("flow_times")),
    ),
    "lightning": (
        dict(preconditioner="flow"),
        dict(loss=part("flow_matching", cosine=1.0), noise=part("logit_normal")),
    ),
    "min_snr_on_noise": (
        dict(preconditioner="discrete"),
        dict(noise=part("discrete"), weighting=part("min_snr")),
    ),
    "p2_on_velocity": (
        dict(preconditioner=dict(name="discrete", predicts="velocity")),
        dict(noise=part("discrete"), weighting=part("p2")),
    ),
    "pfgmpp": (DIT, dict(kernel=part("pfgmpp", D=128.0))),
    "cep": (DIT, dict(perturbation=part("cep", kind="uniform"))),
    "curriculum": (DIT, dict(objective=part("curriculum", parts=4, patience=50))),
    "ant": (
        HYBRID,
        dict(
            loss=part("hybrid"),
            noise=part("discrete"),
            objective=part("clusters", count=4, weights=part("pcgrad")),
        ),
    ),
    "umd": (UMD, dict(loss=part("masked"), noise=part("discrete"))),
}


def config_of(name) -> ConfigDict:
    """Return the tiny config with a recipe of `RECIPES`."""
    model, sections = RECIPES[name]
    config = tiny(steps=4, batch_size=8)
    fields = dict(model) if "name" in model else config.model.to_dict() | model
    config.model = ConfigDict(fields)
    for key, section in sections.items():
        config.training[key] = section
    return config


@pytest.mark.parametrize("name", few(4, RECIPES))
def test_every_recipe_composes_into_a_step(name):
    """Shapes alone: the program is traced, not compiled."""
    config = config_of(name)
    spec = builders.build(config.model)
    found = recipe(config)
    state = jax.eval_shape(
        lambda: initial_state(found, {"main": spec.initialise(jax.random.key(0))})
    )
    batch = {
        "x": jax.ShapeDtypeStruct((8, *spec.shape), np.float32),
        "condition": jax.ShapeDtypeStruct((8,), np.int32),
    }
    after, metrics = jax.eval_shape(make_step(found, {"main": spec.network}, 0), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert {"loss", "gradient_norm"} <= metrics.keys()
    assert all(value.shape == () for value in metrics.values())


def leaves(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])


def test_the_defaults_of_parts_are_those_of_every_config():
    assert {name: common.base().training[name].to_dict() for name in recipes.DEFAULTS} == (
        recipes.DEFAULTS
    )


def by_path(params):
    """Return parameters by their paths."""
    flat = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in flat}


@pytest.mark.longer
def test_edm2_keeps_unit_weights_and_constants_and_learns_its_uncertainty(tmp_path):
    config = config_of("edm2")
    after = by_path(train(config, tmp_path).main.params)
    spec = builders.build(config.model)
    start = spec.initialise(parameters_key(config.seed))
    before = by_path(spec.project(start))
    moved = {path for path in before if np.abs(after[path] - before[path]).max() > 0}
    frozen = {path for path in before if spec.frozen(path)}
    assert frozen and not moved & frozen
    assert any(path.startswith("logvar_linear") for path in moved)
    for path, leaf in by_path(spec.project(unflatten(after.items()))).items():
        np.testing.assert_allclose(leaf, after[path], rtol=1e-4, atol=1e-6)


@pytest.mark.longer
def test_what_an_objective_remembers_is_part_of_a_run_that_is_continued(tmp_path):
    whole = train(config_of("curriculum"), tmp_path / "whole")
    first = config_of("curriculum")
    first.training.steps = first.checkpoint.every_steps = 2
    train(first, tmp_path / "cut")
    continued = train(config_of("curriculum"), tmp_path / "cut")
    np.testing.assert_array_equal(leaves(continued), leaves(whole))
    assert float(whole.memory["best"]) < np.inf


REFUSED = [
    (
        "edm",
        dict(noise=part("normal")),
        "training.noise.name 'normal' is not one of discrete.*did you mean log_normal",
    ),
    ("edm", dict(noise=part("log_normal", spread=1)), "noise: log_normal has no argument 'spread'"),
    ("edm", dict(noise=part("log_normal", std=-1.0)), "noise: log_normal: .* 0 or more"),
    ("vp", dict(augmentation=part("edm")), r"takes 0: set model\.augment_dim"),
    ("vp", dict(loss=part("uncertainty")), "learns no log_variance"),
    ("vp", dict(loss=part("masked")), r"use model\.name umd"),
    ("vp", dict(loss=part("hybrid")), "steps of a table"),
    ("vp", dict(objective=part("clusters", cost="loss")), "cost 'loss' is not one of"),
    (
        "vp",
        dict(objective=part("clusters", weights=part("sum"))),
        "objective.weights.name 'sum' is not one of .*equal",
    ),
    ("vp", dict(objective=part("clusters", count=3)), "3 clusters .* cannot share a batch of 8"),
    ("vp", dict(kernel=part("pfgmpp", D=0.0)), "must be above 0"),
    (
        "vp",
        dict(loss=part("cross_entropy"), kernel=part("pfgmpp")),
        "the loss cross_entropy makes no use of it: leave it at",
    ),
    ("vp", dict(perturbation=part("cep", gamma=0.0)), "gamma is above 0"),
]


@pytest.mark.parametrize(("name", "sections", "message"), REFUSED)
def test_a_recipe_that_cannot_work_is_refused_by_the_part(name, sections, message):
    config = config_of(name)
    for key, section in sections.items():
        config.training[key] = section
    with pytest.raises(UserError, match=message):
        recipe(config)


def test_perturbed_conditions_need_a_network_with_conditions():
    config = config_of("cep")
    config.model.num_classes = 0
    with pytest.raises(UserError, match="set perturbation.name none"):
        recipe(config)
