"""Few-step students trained and sampled by the commands, each method a few steps."""

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
from guidestar.configs.recipes.few_step import METHODS
from guidestar.core.errors import UserError
from guidestar.models import load
from guidestar.runtime.sharding import on_one_device

CONFIGS = importlib.import_module("guidestar.configs.recipes.few_step")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of a tiny denoiser of digits."""
    folder = tmp_path_factory.mktemp("teacher")
    return write_untrained(folder / "teacher.safetensors", tiny().model.to_dict())


def config_of(method, teacher, **training):
    """Return a method's recipe on the tiny network."""
    config = CONFIGS.get_config(f"method={method},runlocal")
    small = tiny(**training)
    kept = {
        name: config.model[name] for name in ("inputs", "preconditioner") if name in config.model
    }
    config.model = small.model
    config.model.update(kept)
    config.training.update(batch_size=8, steps=small.training.steps)
    config.training.init_from.weights = str(teacher)
    if "teacher" in config.roles:
        config.roles.teacher.init_from = str(teacher)
    if method == "progressive":
        config.training.loss.updates = 2
    config.checkpoint.every_steps = 2
    config.log.update(every_steps=1, preview_every_steps=0, tensorboard=False)
    return config


@pytest.mark.parametrize("method", few(5, METHODS))
@pytest.mark.parametrize("size", few(1, ["runlocal", ""]))
def test_a_methods_recipe_composes(method, size):
    config = CONFIGS.get_config(f"method={method}" + f",{size}" * bool(size))
    assert config.training.loss.name == method
    recipe(config)


@pytest.mark.longer
@pytest.mark.parametrize("method", METHODS)
def test_a_student_is_trained_goes_on_bitwise_and_is_sampled_from(method, teacher, tmp_path):
    config = config_of(method, teacher, steps=4)
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
    if "teacher" in whole.roles:
        held = whole.roles["teacher"]
        for one, other in zip(
            jax.tree.leaves(held.params), jax.tree.leaves(load(str(teacher)).params), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.longer
def test_a_student_is_sampled_at_scales_that_it_was_trained_at(teacher, tmp_path):
    config = config_of("consistency_distillation", teacher)
    setup = setup_of(config, on_one_device(jax.devices()[0]))
    model = config.model.to_dict()
    student = write_untrained(tmp_path / "student.safetensors", model)
    assert setup.network.inputs[0][0] == "scale"
    config.sampling.weights.update(main=str(student), guide="")
    images = job_from_config(config).images(np.arange(2))
    assert images.shape == (2, 8, 8, 1) and np.isfinite(images).all()
    config.sampler.solver.scale = 2.0
    assert not np.array_equal(job_from_config(config).images(np.arange(2)), images)
    config.sampler.solver.scale = 9.0
    with pytest.raises(UserError, match="scale is 9.0, .* from 1 to 5"):
        job_from_config(config)
    with config.sampler.solver.unlocked():
        del config.sampler.solver.scale
    with pytest.raises(UserError, match=r"takes the input scale, .* set sampling\.inputs\.scale"):
        job_from_config(config)
    config.sampling.inputs = dict(scale=2.0)
    assert job_from_config(config).made_of()["inputs"] == {"scale": 2.0}
    config.sampler.solver = dict(name="heun")
    with pytest.raises(UserError, match=r"is a consistency function: take samplers\.consistency"):
        job_from_config(config)
    config.sampling.weights.main = str(teacher)
    config.sampling.inputs, config.sampler.solver = {}, dict(name="consistency")
    with pytest.raises(UserError, match="is a denoiser: take a solver for denoisers"):
        job_from_config(config)
