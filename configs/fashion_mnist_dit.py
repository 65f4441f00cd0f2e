"""Fashion-MNIST, the main DiT of the demo: 1.9 M parameters, 49 tokens of 4x4 pixels.

    python main.py --config=configs/fashion_mnist_dit.py --config.data.dir=DIR --workdir=out/dit

2 700 steps, 346 k images: 58 minutes on 2 CPU cores beside other work, at 130 images/s when left
alone. Loss about 0.22. What the weights reach under each rule: docs/evidence.md, `make evidence`.
"""

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "fashion_mnist_dit"
    config.data.name = "fashion_mnist"
    config.data.flip = True
    common.dit(
        config,
        image_size=28,
        channels=1,
        num_classes=10,
        patch_size=4,
        width=128,
        depth=6,
        heads=4,
        sigma_data=0.7,
    )
    config.training.steps = 2700
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_steps = 2700
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.warmup_steps = 200
    config.ema.images = 20_000
    config.checkpoint.every_steps = 200
    config.log.preview_every_steps = 600
    config.sampling.weights.main = "fashion_mnist_dit"
    config.sampling.weights.guide = "fashion_mnist_guide"
    return config
