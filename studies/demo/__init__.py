"""The demo's page."""

from .demo import report as run

__all__ = ["run"]
