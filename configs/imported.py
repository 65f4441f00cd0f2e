"""Samples of imported weights, whatever they are called: their .json says what they are.

    python main.py --config=configs/imported.py:DIR/NAME.safetensors --workdir=DIR --mode=sample

The config that --mode=import writes beside weights gives its own place.
"""

from pathlib import Path

from guidestar.configs import common
from guidestar.core.errors import UserError
from guidestar.models.checkpoints.files import resolve, sidecar_of


def get_config(weights: str | Path = ""):
    """Return the config.

    Args:
        weights: the .safetensors file, as --mode=import wrote it.

    Raises:
        UserError: no such file, or one that --mode=import did not write.
    """
    if not weights:
        raise UserError("configs/imported.py: write the .safetensors file's path after a colon")
    path = resolve(weights)
    said = sidecar_of(path) or {}
    levels = said.get("sigma_range")
    if not isinstance(levels, list) or len(levels) != 2:
        raise UserError(f"{path} says nothing of its noise levels: import it again")
    config = common.base()
    config.name = path.stem
    config.sampling.weights.main = str(path)
    low, high = levels
    config.sampler.schedule.update(sigma_min=float(low), sigma_max=float(high))
    return config
