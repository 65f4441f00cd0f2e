"""Generators and guidance-free networks trained by the commands, each method a few steps."""

import importlib
import json

import jax
import numpy as np
import pytest
from tables.everyday import few
from tiny_configs.configs import recipe, tiny, write_untrained

from guidestar.commands.config.training import setup_of
from guidestar.commands.sample import job_from_config
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.models import load
from guidestar.runtime.sharding import on_one_device
from guidestar.training.setup import parameters_key

FILES = {
    name: importlib.import_module(f"guidestar.configs.recipes.{name}")
    for name in ("matching", "guidance_free")
}
METHODS = [(name, method) for name, file in FILES.items() for method in file.METHODS]
METHODS.append(("matching", "dmd,adversarial"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of a tiny denoiser of digits."""
    folder = tmp_path_factory.mktemp("teacher")
    return write_untrained(folder / "teacher.safetensors", tiny().model.to_dict())


def config_of(name, method, teacher, **training):
    """Return a method's recipe on the tiny network."""
    config = FILES[name].get_config(f"method={method},runlocal")
    small = tiny(**training)
    kept = {key: config.model[key] for key in ("inputs", "preconditioner") if key in config.model}
    config.model = small.model
    config.model.update(kept)
    config.training.update(batch_size=8, steps=small.training.steps)
    config.training.init_from.weights = str(teacher)
    for role in {"teacher", "fake"} & set(config.roles):
        config.roles[role].init_from = str(teacher)
    config.checkpoint.every_steps = 2
    config.log.update(every_steps=1, preview_every_steps=0, tensorboard=False)
    return config


@pytest.mark.parametrize(("name", "method"), few(3, reversed(METHODS)))
@pytest.mark.parametrize("size", few(1, ["runlocal", ""]))
def test_a_methods_recipe_composes(name, method, size):
    config = FILES[name].get_config(f"method={method}" + f",{size}" * bool(size))
    assert config.training.loss.name == method.split(",")[0]
    found = recipe(config)
    assert found.turns == (5 if method.startswith("dmd") else 1)


@pytest.mark.longer
@pytest.mark.parametrize(("name", "method"), METHODS)
def test_it_is_trained_and_goes_on_bitwise(name, method, teacher, tmp_path):
    config = config_of(name, method, teacher, steps=4)
    whole = train(config, tmp_path / "whole")
    config.training.steps = 2
    train(config, tmp_path / "parts")
    config.training.steps = 4
    again = train(config, tmp_path / "parts")
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 4 and np.isfinite(losses).all()
    begun = load(str(teacher)).params
    for role in ("teacher", "fake"):
        if role in whole.roles:
            pairs = zip(
                jax.tree.leaves(whole.roles[role].params), jax.tree.leaves(begun), strict=True
            )
            same = all(np.array_equal(one, other) for one, other in pairs)
            assert same == (role == "teacher")


@pytest.mark.longer
def test_a_step_of_dmd_trains_generator_and_fake_and_leaves_the_teacher(teacher):
    config = config_of("matching", "dmd,adversarial", teacher)
    config.training.loss.update(ratio=2)
    begin = setup_of(config, on_one_device(jax.devices()[0]))
    state = begin.create(parameters_key(0))
    before = jax.device_get({role: one.params for role, one in state.roles.items()})
    batch = {"x": np.zeros((8, 8, 8, 1), np.float32), "condition": np.arange(8, dtype=np.int32)}
    state, metrics = begin.step(0)(state, batch)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    for role, one in state.roles.items():
        pairs = zip(jax.tree.leaves(before[role]), jax.tree.leaves(one.params), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs) == (role == "teacher")


@pytest.mark.longer
def test_a_generator_is_sampled_in_one_evaluation(teacher, tmp_path):
    config = config_of("matching", "dmd", teacher)
    generator = write_untrained(tmp_path / "generator.safetensors", config.model.to_dict())
    config.sampling.weights.update(main=str(generator), guide="")
    job = job_from_config(config)
    images = job.images(np.arange(2))
    assert images.shape == (2, 8, 8, 1) and np.isfinite(images).all()


ROLES = [
    (dict(fake=dict(frozen=True, optimizer={})), r"roles\.fake learns .*roles\.fake\.frozen=False"),
    (dict(teacher=dict(frozen=False)), r"receives no gradient: set roles\.teacher\.frozen=True"),
]


@pytest.mark.longer
@pytest.mark.parametrize(("changed", "message"), ROLES)
def test_networks_that_learn_and_others_are_told_apart(changed, message, teacher):
    config = config_of("matching", "sid", teacher)
    for role, fields in changed.items():
        for field, value in fields.items():
            config.roles[role][field] = value
    with pytest.raises(UserError, match=message):
        recipe(config)
