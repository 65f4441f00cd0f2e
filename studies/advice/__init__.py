"""Which rule, which solver, which schedule, with the stored figures: docs/choose.md."""

from ...runtime.run_folder import Folder
from .advice import advise as run

# What this mode reads of a config: all it tells is in what other studies wrote.
READS = ()
# What its work folder becomes, and may hold before.
WORKDIR = Folder()

__all__ = ["READS", "WORKDIR", "run"]
