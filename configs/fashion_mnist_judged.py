"""The demo's DiT, and the same trained on unmirrored, in features that no choice was made in.

    python main.py --config=configs/fashion_mnist_judged.py --workdir=out/judged --mode=evaluate

after `configs/fashion_mnist_judge.py` has been trained and exported in out/judge, and
``--mode=statistics`` with this config, ``--workdir=out/judged`` and ``--config.data.dir=DIR``.
"""

from ml_collections import ConfigDict

from guidestar.configs import evidence

NETWORKS = {
    "mirrored": ("fashion_mnist_dit", "fashion_mnist_guide"),
    "unmirrored": ("fashion_mnist_dit_unmirrored", "fashion_mnist_guide_unmirrored"),
}
RULES = {
    "unguided": dict(name="unguided"),
    "cfg_1_5": evidence.cfg(1.5),
    "cfg_2": evidence.cfg(2.0),
    "cfg_3": evidence.cfg(3.0),
    "autoguidance_1_5": dict(name="autoguidance", scale=1.5),
    "autoguidance_2": dict(name="autoguidance", scale=2.0),
    "autoguidance_2_5": dict(name="autoguidance", scale=2.5),
}


def get_config(networks: str = ""):
    """Return the config of ``mirrored`` or ``unmirrored`` networks; of both when empty."""
    config = evidence.get_config()
    config.name = "fashion_mnist_judged"
    config.rows = ConfigDict(
        {
            f"{which}_{rule}": dict(
                title=f"{which}, {rule}",
                guidance=guidance,
                sampling=dict(weights=dict(main=main, guide=guide, classifier="")),
            )
            for which in ([networks] if networks else NETWORKS)
            for main, guide in [NETWORKS[which]]
            for rule, guidance in RULES.items()
        },
        sort_keys=False,
    )
    config.claims = ()
    # Ten evaluations instead of 23; docs/samplers.md compares them.
    config.sampler.solver = ConfigDict(dict(name="dpmpp", order=2))
    config.sampler.schedule.steps = 10
    config.evaluation.update(
        classifier="out/judge/fashion_mnist_judge.safetensors",
        statistics="fashion_mnist_judge_statistics",
        metrics=("frechet_distance", "agreement", "contrast"),
        count=500,
    )
    return config
