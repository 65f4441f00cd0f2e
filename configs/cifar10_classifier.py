"""CIFAR-10: the small classifier whose features CIFAR-10's Frechet distances are measured in.

    python main.py --config=configs/cifar10_classifier.py --config.data.dir=DIR \
        --workdir=out/cifar10_classifier

168 k parameters; the shipped weights are those after 4 000 of the 6 000 steps, 512 k images. They
name 81.1 % of the 5 000 training images that were held out.
"""

from ml_collections import ConfigDict

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "cifar10_classifier"
    config.data.name = "cifar10"
    config.data.split = "train[:90%]"
    config.model = ConfigDict(dict(name="classifier", image_size=32, channels=3, num_classes=10))
    config.training.update(steps=6000, batch_size=128, label_dropout=0.0)
    config.training.loss = common.part("cross_entropy", flip=True, shift=3, label_smoothing=0.0)
    config.optimizer.update(
        learning_rate=3e-3, schedule="cosine", warmup_steps=200, decay_steps=6000, weight_decay=0.05
    )
    config.ema.update(images=20_000)
    config.log.preview_every_steps = 0
    return config
