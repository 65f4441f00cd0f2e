"""Fashion-MNIST, a LiteVAE with the encoder of size S on two wavelet levels: 28x28 to 7x7x4.

python main.py --config=configs/lite_vae_fashion_mnist.py --config.data.dir=DIR --workdir=out/ae

1.25 M parameters, 0.77 M of them the encoder's: that of size S has 1.04 M on three levels.
"""

from ml_collections import ConfigDict

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "lite_vae_fashion_mnist"
    config.data.name = "fashion_mnist"
    config.data.flip = True
    config.model = ConfigDict(
        dict(
            name="lite_vae",
            size="S",
            image_size=28,
            channels=1,
            latent_channels=4,
            levels=2,
            decoder_widths=(16, 32, 64),
            decoder_depth=2,
        )
    )
    judge = dict(name="unet_discriminator", image_size=28, channels=1, widths=(16, 32, 64))
    config.roles = ConfigDict(dict(discriminator=dict(model=judge, frozen=False)))
    config.training.update(steps=2000, batch_size=32, label_dropout=0.0)
    config.training.loss = common.part(
        "autoencoding",
        features="fashion_mnist_classifier",
        l1=1.0,
        perceptual=0.1,
        kl=1e-4,
        wavelet=0.3,
        high_pass=0.3,
        adversarial=0.05,
    )
    config.optimizer.update(
        learning_rate=1e-3, schedule="cosine", decay_steps=2000, b1=0.5, b2=0.9, clip_norm=0.0
    )
    config.ema.images = 2_000
    config.encoding.autoencoder = "out/ae/lite_vae_fashion_mnist.safetensors"
    config.log.update(every_steps=50, preview_every_steps=0)
    return config
