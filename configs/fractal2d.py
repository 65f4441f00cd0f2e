"""The two-class fractal of the autoguidance paper (arXiv 2406.02507, figure 1), in full.

make fractal2d        trains the three networks, samples, measures, draws

A main network for class A (4096 steps, 64 wide) and two guides (512 steps, 32 wide): one for
class A, which autoguidance uses, and one for both classes, which is CFG's unconditional network.

Seeds matter. A network's log-density is a square times a gain that starts at 0, and the initial
weights decide whether the gain ends negative, so that the density falls away from the data, or
positive, so that it grows without bound far out and guided trajectories that start there run
away: a handful of points then decides the mean. The seeds below give three negative gains. Of
five guides tried with this main network (seeds 1, 2, 3, 5, 6), the mean log-density of points,
counted as -20 nats at least, was 0.77, 0.31, 0.83, 0.73, 0.70 against 0.49 unguided; the plain
mean was 0.57, -18, 0.52, -28, -8.3 against 0.07.

What it reaches: docs/performance.md. About 6 minutes on 2 CPU cores beside other work.
"""

from ml_collections import ConfigDict

from guidestar.configs import common

# name -> (hidden width, steps, which classes: the split of the data set, seed)
NETWORKS = {
    "main": (64, 4096, "A", 2),
    "guide": (32, 512, "A", 3),
    "uncond": (32, 512, "train", 2),
}

ROWS = {
    "unguided": ("Unguided", dict(name="unguided")),
    "cfg": ("CFG, w = 4", dict(name="cfg", scale=4.0, network="uncond")),
    "autoguidance": ("Autoguidance, w = 3", dict(name="autoguidance", scale=3.0)),
}


def get_config():
    """Return the config; its training sections are the main network's."""
    config = common.base()
    config.name = "fractal2d_main"
    config.data.name = "fractal2d"
    hidden, steps, split, config.seed = NETWORKS["main"]
    config.data.split = split
    config.model = ConfigDict(dict(name="score_mlp", hidden=hidden))
    config.training.update(steps=steps, batch_size=4096)
    config.training.loss = common.part("score_matching")
    config.training.noise = common.part("log_normal", mean=-2.3, std=1.5)
    config.training.label_dropout = 0.0
    config.optimizer.update(
        learning_rate=1e-2, schedule="inverse_sqrt", warmup_steps=0, decay_steps=512, clip_norm=0.0
    )
    config.ema.update(profile="power", std=0.01)
    config.checkpoint.every_steps = 512
    config.log.every_steps = 64
    config.log.preview_every_steps = 0
    networks = {
        name: dict(hidden=hidden, steps=steps, split=split, seed=seed)
        for name, (hidden, steps, split, seed) in NETWORKS.items()
    }
    config.experiment = ConfigDict(
        dict(
            networks=networks,
            weights={name: f"fractal2d_{name}" for name in NETWORKS},
            points=2**13,
            seed=0,
            sampler=dict(
                solver=dict(name="heun"),
                schedule=dict(name="karras", steps=32, sigma_min=0.002, sigma_max=5.0, rho=7.0),
            ),
        )
    )
    config.experiment.rows = ConfigDict(
        {name: dict(title=title, guidance=rule) for name, (title, rule) in ROWS.items()},
        sort_keys=False,  # shown in this order
    )
    return config
