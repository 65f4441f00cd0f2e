"""Fashion-MNIST: the demo's denoiser as a classifier of the test images (2303.16203).

python main.py --config=configs/fashion_mnist_classes.py --config.data.dir=DIR \
        --workdir=out/classes --mode=classify

83.8 % of the first 1 000 images, at 240 evaluations (15.0 G multiply-adds) each.
"""

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "fashion_mnist_classes"
    config.data.name, config.data.split = "fashion_mnist", "test"
    config.sampling.weights.main = "fashion_mnist_dit"
    config.classification.count = 1000
    config.classification.stages = ((8, 5), (24, 2), (64, 1))
    return config
