"""CIFAR-10 by EDM's recipe: DDPM++ with augmentation, class labels, half-life averages.

    python main.py --config=configs/cifar10_edm.py --config.data.dir=DIR --workdir=out/cifar10_edm

The published run (arXiv 2206.00364, table 7): 55.7 M parameters, batch 512, 200 M images, FID 1.79.
`--config=configs/cifar10_edm.py:small` is a network of 0.71 M parameters at batch 64, for a CPU.
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.core.errors import UserError

FULL = dict(model_channels=128, channel_mult=(2, 2, 2), num_blocks=4, attn_resolutions=(16,))
SMALL = dict(model_channels=24, channel_mult=(1, 2, 2), num_blocks=1, attn_resolutions=(16,))


def get_config(size: str = ""):
    """Return the config of the published size, or of ``small``.

    Raises:
        UserError: another size.
    """
    if size not in ("", "small"):
        raise UserError(f"configs/cifar10_edm.py has no size {size!r}: leave it out, or use small")
    config = common.base()
    config.name = "cifar10_edm"
    config.data.name = "cifar10"
    config.model = ConfigDict(
        dict(name="song_unet", image_size=32, channels=3, num_classes=10, augment_dim=9)
        | dict(dropout=0.13)
        | FULL
    )
    config.training.update(batch_size=512, label_dropout=0.0, steps=200_000_000 // 512)
    config.training.augmentation = common.part("edm", probability=0.12)
    config.optimizer.update(
        learning_rate=1e-3, b2=0.999, warmup_images=10_000_000, clip_norm=0.0, nonfinite="edm"
    )
    config.ema.update(images=500_000, ramp_up=0.05)
    config.checkpoint.every_steps = 2000
    config.log.preview_every_steps = 5000
    config.guidance = ConfigDict(dict(name="unguided"))
    config.sampler.schedule.steps = 18
    if size == "small":
        config.name = "cifar10_edm_small"
        config.model.update(SMALL, dropout=0.0)
        config.training.update(batch_size=64, steps=2500)
        config.training.augmentation.probability = 0.05
        config.optimizer.update(warmup_images=50_000)
        config.ema.update(images=50_000)
        config.checkpoint.every_steps = 100
        config.log.preview_every_steps = 1000
    return config
