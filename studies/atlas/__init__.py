"""The atlas of rules."""

from .atlas import atlas as run

__all__ = ["run"]
