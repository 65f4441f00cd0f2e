"""An average of any width from a run's snapshots."""

from pathlib import Path

from ..training.averages.posthoc_ema import reconstruct

# What this mode reads of a config.
READS = (
    "ema.reconstruct",
    "ema.at_images",
    "ema.reconstruct_dtype",
)


def run(config, workdir: Path) -> None:
    """Write the average that ``config.ema`` asks for."""
    reconstruct(config, workdir)
