"""A config small enough to train in seconds: bundled digits, a DiT of one block."""

from guidestar.configs import digits
from ml_collections import ConfigDict


def tiny(**training) -> ConfigDict:
    """Return the digits config at a size for tests, with fields of ``training`` replaced."""
    config = digits.get_config()
    config.model.update(width=16, depth=1, heads=2, patch_size=4)
    config.training.update(steps=12, batch_size=8)
    config.training.update(**training)
    config.optimizer.decay_steps = 12
    config.checkpoint.every_steps = 4
    config.log.update(every_steps=2, preview_every_steps=0, tensorboard=False)
    return config
