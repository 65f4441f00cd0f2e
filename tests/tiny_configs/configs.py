"""A config small enough to train in seconds: bundled digits, a DiT of one block."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from guidestar.commands.config.training import (
    checkpoints_of,
    networks_of,
    recipe_of_config,
    restored,
    setup_of,
)
from guidestar.configs import digits
from guidestar.models import builders
from guidestar.models.checkpoints import save
from guidestar.runtime.sharding import on_one_device


def tiny(**training) -> ConfigDict:
    """Return the digits config at a size for tests, with fields of ``training`` replaced."""
    config = digits.get_config()
    config.model.update(width=16, depth=1, heads=2, patch_size=4)
    config.training.update(steps=12, batch_size=8)
    config.training.update(**training)
    config.optimizer.decay_steps = 12
    config.checkpoint.every_steps = 4
    config.sampling.weights.main = ""
    config.log.update(every_steps=2, preview_every_steps=0, tensorboard=False)
    return config


def recipe(config):
    """Return the recipe of a config."""
    return recipe_of_config(config, networks_of(config))


def setup(config, devices=None):
    """Return a run before its first number, on one device if None."""
    return setup_of(config, devices or on_one_device(jax.devices()[0]))


def last_checkpoint(config, workdir: Path):
    """Return step, state and what else is stored of a run's newest checkpoint."""
    networks = networks_of(config)
    return restored(checkpoints_of(config, workdir, networks), setup(config))


def trained() -> ConfigDict:
    """Return the digits config on the shipped weights, with few steps."""
    config = digits.get_config()
    config.sampler.schedule.steps = 6
    return config


def write_untrained(path: Path, model: dict) -> Path:
    """Write weights of a fresh network with noise everywhere: no layer is zero as it starts."""
    spec = builders.build(model)
    params = spec.initialise(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape), params)
    save(path, params, model, {"steps": 0})
    return path
