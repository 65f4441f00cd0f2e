"""Fashion-MNIST, the demo's DiT trained on with images as they are, not mirrored.

    python main.py --config=configs/fashion_mnist_dit_unmirrored.py --config.data.dir=DIR \
        --workdir=out/unmirrored

then the same with ``--mode=export``, and both again with the config
``configs/fashion_mnist_dit_unmirrored.py:again`` in another workdir: two rounds of 20 480 images on
top of the 345 600 of `configs/fashion_mnist_dit.py`. What it changes: docs/training.md.
"""

from guidestar.configs import fashion_mnist_dit
from guidestar.core.errors import UserError

FIRST = "out/unmirrored/fashion_mnist_dit_unmirrored.safetensors"


def get_config(round_: str = ""):
    """Return the config of the first round, or of the second, ``again``.

    Raises:
        UserError: another round.
    """
    if round_ not in ("", "again"):
        raise UserError(f"there is no round {round_!r} of this config: leave it out, or use again")
    config = fashion_mnist_dit.get_config()
    config.name = "fashion_mnist_dit_unmirrored"
    # All shoes of the data set point to the left: mirrored ones are not of its distribution.
    config.data.flip = False
    config.training.init_from.weights = FIRST if round_ else "fashion_mnist_dit"
    config.seed = 1 if round_ else 0
    config.training.update(batch_size=32, steps=640)
    # Which garment it becomes, and which way it points, is decided at sigma 1 to 10.
    config.training.noise.update(mean=-0.4, std=1.4)
    config.optimizer.update(learning_rate=5e-4, warmup_steps=20, decay_steps=640)
    config.ema.images = 1500
    config.checkpoint.every_steps = 40
    config.log.preview_every_steps = 0
    config.sampling.weights.main = "fashion_mnist_dit_unmirrored"
    config.sampling.weights.guide = "fashion_mnist_guide_unmirrored"
    return config
