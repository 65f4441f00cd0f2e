"""Every solver against its number of network evaluations."""

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


__all__ = ["READS", "run"]
