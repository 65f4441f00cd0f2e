"""The best linear combination of saved weights."""

from pathlib import Path

from ..training.averages.lcsc import search

# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "lcsc",
    "guidance",
    "sampler",
    "sampling.weights",
    "sampling.classes",
    "sampling.branches",
)


def run(config, workdir: Path) -> None:
    """Write the combination that ``config.lcsc`` asks for."""
    search(config, workdir)
