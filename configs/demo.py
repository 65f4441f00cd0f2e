"""The demo: one main DiT and one weak guide on Fashion-MNIST, and the two-class fractal.

make demo    python main.py --config=configs/demo.py --workdir=out/demo --mode=demo
"""

from ml_collections import ConfigDict

from guidestar.configs import evidence, fractal2d

ROWS = ("unguided", "cfg_2", "interval", "autoguidance")


def get_config():
    """Return the config."""
    config = evidence.get_config(",".join(ROWS))
    config.name = "demo"
    config.demo = ConfigDict(dict(seeds=8, batch_size=40, stored="fashion_mnist_evidence"))
    config.fractal = fractal2d.get_config().experiment
    return config
