"""Evaluations small enough to run in seconds: untrained networks of the digits' size."""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict
from tiny_configs.configs import tiny, write_untrained

CLASSIFIER = dict(
    name="classifier", image_size=8, channels=1, num_classes=10, widths=[8], depths=[1]
)
FEATURES = 6


def classifier(path: Path, **model) -> str:
    """Write an untrained classifier of the digits and return its path."""
    return str(write_untrained(path, CLASSIFIER | {"feature_width": FEATURES} | model))


def evaluation(get_config: Callable[[], ConfigDict], folder: Path) -> ConfigDict:
    """Return a config of rows on tiny networks that are written into a folder."""
    config = get_config()
    config.data.name = "digits"
    weights, model = config.sampling.weights, tiny().model.to_dict()
    weights.main = str(write_untrained(folder / "main.safetensors", model))
    weights.guide = str(write_untrained(folder / "guide.safetensors", model | {"width": 8}))
    config.evaluation.update(
        classifier=classifier(folder / "classifier.safetensors"), statistics="real", count=12
    )
    config.sampler.schedule.steps = 2
    config.sampling.batch_size = 6
    config.claims = ()
    return config
