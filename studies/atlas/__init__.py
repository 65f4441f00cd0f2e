"""The atlas of rules."""

from .atlas import atlas as run

# What this mode reads of a config.
READS = (
    "seed",
    "atlas",
    "fractal",
    "sampler",
    "sampling.weights",
)


__all__ = ["READS", "run"]
