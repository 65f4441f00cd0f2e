"""Pictures of one's own: a small DiT, and a sweep of two rules over it.

    python main.py --config=configs/pictures.py:DATASET --workdir=out/pictures

DATASET is a folder of ``--mode=prepare`` with two classes or more; size, channels and classes are
read from it. docs/howto/own_data.md has all the steps, to the report.
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.core.errors import UserError
from guidestar.data import record_folder

# Tokens along a side, at most: with more the network sees finer, and a step takes longer.
TOKENS = 8


def set_data(config: ConfigDict, dataset: str) -> dict:
    """Name a data set in a config, and return the fields of a model that it decides.

    Raises:
        UserError: no such data set, or one whose pictures are no squares of two classes or more.
    """
    found = record_folder.describe(dataset)
    (height, width, channels), classes = found["shape"], found["num_classes"]
    if height != width or classes < 2:
        raise UserError(
            f"{dataset} has pictures of {height}x{width} in {classes} class(es), and this config "
            f"is for squares of two classes or more: put pictures into a folder for each class, "
            f"and prepare them again"
        )
    config.data.name = dataset
    return dict(image_size=height, channels=channels, num_classes=classes)


def get_config(dataset: str):
    """Return the config of a prepared folder of pictures."""
    config = common.base()
    config.name = "pictures"
    model = set_data(config, dataset)
    size = model["image_size"]
    patch = next(one for one in range(1, size + 1) if size % one == 0 and size // one <= TOKENS)
    common.dit(config, patch_size=patch, width=96, depth=4, heads=3, **model)
    config.training.update(steps=1600, batch_size=64)
    config.optimizer.update(schedule="cosine", decay_steps=1600, learning_rate=2e-3)
    config.ema.images = 5_000
    config.log.preview_every_steps = 400
    config.sampling.weights.main = "out/pictures/pictures.safetensors"
    config.sampling.batch_size = 50
    config.sampler.solver = common.part("dpmpp", order=2)
    config.sampler.schedule.steps = 16
    config.guidance = common.part("between", rule=dict(name="cfg", scale=2.0), low=0.0, high=80.0)
    config.evaluation = ConfigDict(
        dict(
            classifier="out/classifier/pictures_classifier.safetensors",
            statistics="pictures_statistics",
            extractor=dict(name="classifier"),
            metrics=("frechet_distance", "precision_recall", "agreement", "contrast", "white"),
            count=200,
        )
    )
    return config


def get_hyper(hyper):
    """Return the trials."""
    return hyper.product(
        [
            hyper.sweep("guidance.rule.name", ["cfg", "tcfg"]),
            hyper.sweep("guidance.rule.scale", [1.5, 2.0, 3.0]),
            hyper.zipit(
                [hyper.sweep("guidance.low", [0.0, 0.3]), hyper.sweep("guidance.high", [80.0, 5.0])]
            ),
        ]
    )
