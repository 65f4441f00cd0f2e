"""Fashion-MNIST, a DiT on the 7x7x4 latents of a LiteVAE: the whole latent path on a CPU.

    python main.py --config=configs/lite_vae_fashion_mnist.py --config.data.dir=DIR --workdir=out/ae
    python main.py --config=configs/lite_vae_fashion_mnist.py --workdir=out/ae --mode=export
    python main.py --config=configs/lite_vae_fashion_mnist.py --config.data.dir=DIR \
        --workdir=out/latents --mode=encode
    python main.py --config=configs/latent_dit_fashion_mnist.py --workdir=out/dit
    python main.py --config=configs/latent_dit_fashion_mnist.py --workdir=out/dit --mode=export
    python main.py --config=configs/latent_dit_fashion_mnist.py --workdir=out/samples --mode=sample

1.3 M parameters, 49 tokens.
"""

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "latent_dit_fashion_mnist"
    config.data.name = "out/latents"
    common.dit(
        config,
        image_size=7,
        channels=4,
        num_classes=10,
        patch_size=1,
        width=128,
        depth=4,
        heads=4,
        latent=True,
    )
    config.training.update(steps=1000, batch_size=128)
    config.optimizer.update(
        learning_rate=2e-3, schedule="cosine", decay_steps=1000, warmup_steps=100
    )
    config.ema.images = 10_000
    config.log.preview_every_steps = 0
    config.sampling.weights.main = "out/dit/latent_dit_fashion_mnist.safetensors"
    config.sampling.count = 100
    config.sampler.schedule.steps = 12
    return common.latents(config, decoder="out/ae/lite_vae_fashion_mnist.safetensors")
