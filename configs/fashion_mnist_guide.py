"""Fashion-MNIST, the weak guide of the demo: 0.2 M parameters, a third of the steps."""

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
