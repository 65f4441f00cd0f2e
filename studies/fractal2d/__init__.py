"""The two-class fractal, from training to figures."""

from .experiment import experiment as run

# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "model",
    "training",
    "optimizer",
    "ema",
    "sharding",
    "checkpoint",
    "log",
    "experiment",
)


__all__ = ["READS", "run"]
