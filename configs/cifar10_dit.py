"""CIFAR-10: a transformer of DiT-S's size on 2x2 patches, for one accelerator.

    python main.py --config=configs/cifar10_dit.py --config.data.dir=DIR --workdir=out/cifar10

200 k steps at batch 512 in bfloat16. Not yet trained in full: no figure to quote.
"""

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "cifar10_dit"
    config.data.name = "cifar10"
    config.data.flip = True
    common.dit(
        config,
        image_size=32,
        channels=3,
        num_classes=10,
        patch_size=2,
        width=384,
        depth=12,
        heads=6,
        sigma_data=0.5,
        scan_layers=True,
        dtype="bfloat16",
    )
    config.training.steps = 200_000
    config.training.batch_size = 512
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 2000
    config.ema.images = 500_000
    config.checkpoint.every_steps = 2000
    config.log.preview_every_steps = 5000
    return config
