"""The demo: one main DiT and one weak guide on Fashion-MNIST, and the two-class fractal.

make demo        python main.py --config=configs/demo.py --workdir=out/demo --mode=report
make evidence    python main.py --config=configs/demo.py --workdir=out/evidence --mode=evaluate
"""

from ml_collections import ConfigDict

from guidestar.configs import common, fractal2d

ROWS = {
    "unguided": ("Unguided", dict(name="unguided")),
    "cfg": ("CFG", dict(name="cfg", scale=4.5)),
    "interval": (
        "CFG in an interval",
        dict(name="between", rule=dict(name="cfg", scale=4.5), low=0.5, high=80.0),
    ),
    "autoguidance": ("Autoguidance", dict(name="autoguidance", scale=1.5)),
}


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "demo"
    config.data.name = "fashion_mnist"
    config.sampling.weights.main = "fashion_mnist_dit"
    config.sampling.weights.guide = "fashion_mnist_guide"
    config.sampling.batch_size = 100
    config.sampler.schedule.steps = 12
    config.rows = ConfigDict(
        {name: dict(title=title, guidance=rule) for name, (title, rule) in ROWS.items()},
        sort_keys=False,  # shown in this order
    )
    config.demo = ConfigDict(dict(seeds=8, batch_size=40, evidence="fashion_mnist_evidence"))
    config.evaluation = ConfigDict(
        dict(
            classifier="fashion_mnist_classifier",
            statistics="fashion_mnist_statistics",
            count=2000,
            command="make evidence",
        )
    )
    config.fractal = fractal2d.get_config().experiment
    return config
