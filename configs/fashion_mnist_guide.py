"""Fashion-MNIST, the weak guide of the demo: an eighth of the main DiT.

    python main.py --config=configs/fashion_mnist_guide.py --config.data.dir=DIR --workdir=out/guide

2 400 steps, 307 k images: 6.5 minutes on 2 CPU cores. Loss about 0.26, against the main network's
0.22. Of the guides tried (800 steps of this network, 700 of the main one) this was the best for its
size.
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
    config.training.steps = 2400
    config.optimizer.decay_steps = 2400
    return config
