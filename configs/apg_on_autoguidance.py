"""Fashion-MNIST under a rule put together here: APG's transforms on autoguidance, in an interval.

    python main.py --config=configs/apg_on_autoguidance.py --workdir=out/apg --mode=sample \
        --config.guidance.rule.push.2.eta=0.2

The push leads away from the weak guide instead of the null class; momentum, clipping and
projection (arXiv 2410.02416) shape it; outside the interval the guide is never evaluated.
"""

from ml_collections import ConfigDict

from guidestar.configs import fashion_mnist_dit


def get_config():
    """Return the config."""
    config = fashion_mnist_dit.get_config()
    config.name = "apg_on_autoguidance"
    config.guidance = ConfigDict(
        dict(
            name="between",
            rule=dict(
                name="push",
                reference=dict(name="weak", network="guide"),
                push=(
                    dict(name="momentum", momentum=-0.5),
                    dict(name="clip_norm", norm=5.0),
                    dict(name="project", eta=0.0),
                    dict(name="scale", scale=3.0),
                ),
            ),
            low=0.1,
            high=10.0,
        )
    )
    return config
