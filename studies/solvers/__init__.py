"""Every solver against its number of network evaluations."""

from ...runtime.run_folder import EVALUATION, SAMPLES, Folder
from .study import study as run

# What this mode reads of a config.
READS = (
    "seed",
    "study",
    "rows",
    "order",
    "margins",
    "guidance",
    "sampler.schedule",
    "sampling.weights",
    "sampling.classes",
    "sampling.branches",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(SAMPLES, EVALUATION))


__all__ = ["READS", "WORKDIR", "run"]
