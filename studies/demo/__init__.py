"""The demo's page."""

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


__all__ = ["READS", "run"]
