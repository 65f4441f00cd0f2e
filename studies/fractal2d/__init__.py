"""The two-class fractal, from training to figures."""

from .experiment import experiment as run

# What this mode reads of a config: not what `experiment` says for each network.
READS = (
    *(f"data.{field}" for field in ("name", "dir", "flip", "most_damaged")),
    "model.name",
    *(
        f"training.{field}"
        for field in (
            "batch_size",
            "label_dropout",
            "loss",
            "noise",
            "weighting",
            "kernel",
            "augmentation",
            "perturbation",
            "objective",
            "loss_scale",
            "accumulate",
            "remat",
        )
    ),
    "optimizer",
    "ema",
    "sharding",
    "checkpoint",
    "log",
    "experiment.networks",
    "experiment.rows",
    "experiment.points",
    "experiment.seed",
    "experiment.sampler",
)


__all__ = ["READS", "run"]
