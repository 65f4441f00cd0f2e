"""Every solver against its number of network evaluations."""

from .study import study as run

__all__ = ["run"]
