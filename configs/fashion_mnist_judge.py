"""Fashion-MNIST: a second classifier, for features that no choice was made in.

    python main.py --config=configs/fashion_mnist_judge.py --config.data.dir=DIR --workdir=out/judge

Two wide stages instead of three, images as they are, another seed. Its weights are not shipped:
docs/training.md says what was measured with them; no choice rested on it.
"""

from ml_collections import ConfigDict

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "fashion_mnist_judge"
    config.seed = 1913
    config.data.name = "fashion_mnist"
    config.model = ConfigDict(
        dict(name="classifier", image_size=28, channels=1, num_classes=10)
        | dict(widths=(32, 64), depths=(2, 2), feature_width=96)
    )
    config.training.update(steps=2400, batch_size=96, label_dropout=0.0)
    config.training.loss = common.part("cross_entropy", flip=False, shift=2, label_smoothing=0.05)
    config.optimizer.update(
        learning_rate=2e-3, schedule="cosine", warmup_steps=100, decay_steps=2400, weight_decay=0.02
    )
    config.ema.update(images=15_000)
    config.log.preview_every_steps = 0
    return config
