"""Fashion-MNIST, the weak guide of the demo: an eighth of the main DiT, a third of its steps.

    python main.py --config=configs/fashion_mnist_guide.py --config.data.dir=DIR --workdir=out/guide

800 steps, 102 k images: 6 minutes on 2 CPU cores beside other work. Loss about 0.34.
"""

from guidestar.configs import common, fashion_mnist_dit


def get_config():
    """Return the config."""
    config = fashion_mnist_dit.get_config()
    config.name = "fashion_mnist_guide"
    common.dit(
        config,
        image_size=28,
        channels=1,
        num_classes=10,
        patch_size=4,
        width=64,
        depth=3,
        heads=2,
        sigma_data=0.7,
    )
    config.training.steps = 800
    config.optimizer.decay_steps = 800
    return config
