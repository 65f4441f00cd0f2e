"""scikit-learn's digits: the small classifier whose features sweeps of the digits are measured in.

python main.py --config=configs/digits_classifier.py --workdir=out/digits_classifier
"""

from ml_collections import ConfigDict

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "digits_classifier"
    config.data.name = "digits"
    config.model = ConfigDict(
        dict(
            name="classifier",
            image_size=8,
            channels=1,
            num_classes=10,
            widths=(16, 32),
            depths=(1, 1),
            feature_width=32,
        )
    )
    config.training.update(steps=1500, batch_size=64, label_dropout=0.0)
    config.training.loss = common.part("cross_entropy", flip=False, shift=1, label_smoothing=0.0)
    config.optimizer.update(
        learning_rate=3e-3, schedule="cosine", warmup_steps=100, decay_steps=1500, weight_decay=0.05
    )
    config.ema.update(images=5_000)
    config.log.preview_every_steps = 0
    return config
