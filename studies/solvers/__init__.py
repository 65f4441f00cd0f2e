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
    "sampling",
)


__all__ = ["READS", "run"]
