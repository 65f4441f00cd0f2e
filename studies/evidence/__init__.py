"""What every rule does, against its paper's claims: docs/evidence.md."""

from ...commands.evaluate import READS as EVALUATED
from ...runtime.run_folder import EVALUATION, SAMPLES, Folder
from .study import study as run

# What this mode reads of a config.
READS = (*EVALUATED, "evidence")
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=EVALUATION, beside=(SAMPLES,))

__all__ = ["READS", "WORKDIR", "run"]
