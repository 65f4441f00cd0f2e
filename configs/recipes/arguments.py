"""Arguments of recipes, ``--config=FILE.py:size=B/2,runlocal``, read strictly."""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from guidestar.core.errors import UserError


def parse(file: str, arg: str, **options: Any) -> SimpleNamespace:
    """Read what stands after the colon of ``--config``.

    Args:
        file: for messages.
        arg: ``name=value`` or, for a switch, ``name``, with commas between.
        options: by name, a tuple of choices, the first being the default; ``False`` for a switch.

    Raises:
        UserError: anything else than that, with what there is.
    """
    found = {name: one[0] if one else False for name, one in options.items()}
    for word in filter(None, arg.split(",")):
        name, equals, value = word.partition("=")
        choices = options.get(name)
        if choices is False and not equals:
            found[name] = True
        elif choices and value in map(str, choices):
            found[name] = next(one for one in choices if str(one) == value)
        else:
            known = (
                f"{key}={'|'.join(map(str, one))}" if one else key for key, one in options.items()
            )
            raise UserError(
                f"{file} does not know {word!r}: after the colon it takes {', '.join(known)}, with "
                f"commas between"
            )
    return SimpleNamespace(**found)


def shrink(config: ConfigDict, **model: Any) -> ConfigDict:
    """Make a recipe small enough for a laptop: 8x8 digits, a tiny network, 400 steps.

    Args:
        config: of the full size; its recipe stays, in proportion to the shorter run.
        model: fields of the tiny network.
    """
    ratio = config.training.steps / 400
    config.name += "_local"
    config.data.update(name="digits", dir="")
    config.model = ConfigDict(
        {"image_size": 8, "channels": 1, "num_classes": 10, "dtype": "float32"} | model
    )
    config.training.update(steps=400, batch_size=32, accumulate=1, loss_scale=1.0)
    for length in ("warmup_steps", "decay_steps"):
        config.optimizer[length] = round(config.optimizer[length] / ratio)
    for length in ("warmup_images", "decay_images"):
        config.optimizer[length] = round(config.optimizer[length] / ratio / 64)
    config.optimizer.learning_rate = max(config.optimizer.learning_rate, 1e-3)
    if config.ema.profile == "constant":
        config.ema.decay = 0.99
    else:
        config.ema.images = 2_000
    if config.ema.snapshot_images:
        config.ema.snapshot_images = 25 * 32
    config.checkpoint.every_steps = 100
    config.log.update(every_steps=20, preview_every_steps=200)
    config.sampling.update(decoder="", scaling="")
    return config
