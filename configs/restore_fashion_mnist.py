"""Restoration of measured images of Fashion-MNIST: the mean of each block of 4 by 4 pixels.

    python main.py --config=configs/restore_fashion_mnist.py --config.data.dir=DIR \
        --workdir=out/restored --mode=restore

measures test images and restores them; measurements of one's own are named by
``--config.restore.measurements``. Other measurements and rules: docs/howto/own_operator.md.
"""

from ml_collections import ConfigDict

from guidestar.configs import fashion_mnist_dit_unmirrored


def get_config():
    """Return the config."""
    config = fashion_mnist_dit_unmirrored.get_config()
    config.name = "restore_fashion_mnist"
    config.data.split = "test"
    config.guidance = ConfigDict(dict(name="ddnm", eta=0.85))
    config.sampler.solver = ConfigDict(dict(name="euler"))
    config.sampler.schedule.steps = 50
    config.sampling.update(count=256, batch_size=64, classes="none")
    config.restore.operator = ConfigDict(dict(name="average_pool", size=4))
    return config
