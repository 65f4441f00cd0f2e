"""Fashion-MNIST, the weak guide of the demo trained on with images as they are, not mirrored.

The command: python main.py --config=configs/fashion_mnist_guide_unmirrored.py
--config.data.dir=DIR --workdir=out/guide_unmirrored; 10 240 images on top of the 307 200 of
`configs/fashion_mnist_guide.py`.
"""

from guidestar.configs import fashion_mnist_dit_unmirrored, fashion_mnist_guide


def get_config():
    """Return the config."""
    config = fashion_mnist_dit_unmirrored.get_config()
    config.name = "fashion_mnist_guide_unmirrored"
    config.model = fashion_mnist_guide.get_config().model
    config.training.init_from.weights = "fashion_mnist_guide"
    config.training.steps = 320
    config.optimizer.decay_steps = 320
    config.ema.images = 750
    return config
