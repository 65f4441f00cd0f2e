"""Weight files: this project's own, and readers and importers of published ones."""

from .files import SHIPPED, Loaded, load, resolve, save

__all__ = ["SHIPPED", "Loaded", "load", "resolve", "save"]
