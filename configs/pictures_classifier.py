"""Pictures of one's own: the small classifier whose features they are measured in.

python main.py --config=configs/pictures_classifier.py:DATASET --workdir=out/classifier
"""

from ml_collections import ConfigDict

from guidestar.configs import common, pictures


def get_config(dataset: str):
    """Return the config of a prepared folder of pictures."""
    config = common.base()
    config.name = "pictures_classifier"
    model = pictures.set_data(config, dataset)
    config.model = ConfigDict(
        dict(name="classifier", widths=(16, 32), depths=(1, 1), feature_width=32) | model
    )
    config.training.update(steps=300, batch_size=64, label_dropout=0.0)
    config.training.loss = common.part("cross_entropy", flip=False, shift=1, label_smoothing=0.0)
    config.optimizer.update(
        learning_rate=3e-3, schedule="cosine", warmup_steps=50, decay_steps=300, weight_decay=0.05
    )
    config.ema.update(images=5_000)
    config.log.preview_every_steps = 0
    return config
