"""What every rule does, against its paper's claims: docs/evidence.md."""

from ...commands.evaluate import READS as EVALUATED
from .study import study as run

# What this mode reads of a config.
READS = (*EVALUATED, "evidence")

__all__ = ["READS", "run"]
