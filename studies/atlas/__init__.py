"""The atlas of rules."""

from ...runtime.run_folder import EVALUATION, SAMPLES, Folder
from .atlas import atlas as run

# What this mode reads of a config.
READS = (
    "seed",
    "atlas",
    "fractal",
    "sampler",
    "sampling.weights",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(SAMPLES, EVALUATION))


__all__ = ["READS", "WORKDIR", "run"]
