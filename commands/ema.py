"""An average of any width from a run's snapshots."""

from pathlib import Path

from ..training.averages.posthoc_ema import reconstruct


def run(config, workdir: Path) -> None:
    """Write the average that ``config.ema`` asks for."""
    reconstruct(config, workdir)
