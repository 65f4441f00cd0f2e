"""The best linear combination of saved weights."""

from pathlib import Path

from ..training.averages.lcsc import search


def run(config, workdir: Path) -> None:
    """Write the combination that ``config.lcsc`` asks for."""
    search(config, workdir)
