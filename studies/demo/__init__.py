"""The demo's page."""

from .demo import report as run

# What this mode reads of a config.
READS = (
    "seed",
    "rows",
    "claims",
    "demo",
    "evaluation",
    "sampler",
    "sampling",
    "fractal",
)


__all__ = ["READS", "run"]
