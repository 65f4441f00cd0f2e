"""Train a network on a data set; the same command again continues."""

from pathlib import Path

from ..training.loop import train

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
)


def run(config, workdir: Path) -> None:
    """Train ``config.model`` on ``config.data`` (see `training.loop.train`)."""
    train(config, workdir)
