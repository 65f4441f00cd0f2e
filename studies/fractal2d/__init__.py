"""The two-class fractal, from training to figures."""

from ...runtime.run_folder import EVALUATION, SAMPLES, Folder
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
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(SAMPLES, EVALUATION))


__all__ = ["READS", "WORKDIR", "run"]
