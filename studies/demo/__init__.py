"""The demo's page."""

from ...runtime.run_folder import EVALUATION, SAMPLES, Folder
from .demo import report as run

# What this mode reads of a config.
READS = (
    "seed",
    "rows",
    "demo",
    "evaluation.classifier",
    "sampler",
    "sampling.weights",
    "sampling.classes",
    "sampling.branches",
    "fractal.weights",
    "fractal.rows",
    "fractal.points",
    "fractal.seed",
    "fractal.sampler",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(SAMPLES, EVALUATION))


__all__ = ["READS", "WORKDIR", "run"]
