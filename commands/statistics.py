"""Statistics of a real set in a classifier's features, for evaluations."""

from pathlib import Path

from ..evaluation.extractors.classifier import write_statistics

# What this mode reads of a config.
READS = (
    "data",
    "evaluation.classifier",
    "evaluation.statistics",
)


def run(config, workdir: Path) -> None:
    """Write the statistics of ``config.data``."""
    write_statistics(config, workdir)
