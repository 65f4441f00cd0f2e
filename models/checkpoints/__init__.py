"""Weight files: this project's own, and published ones, read without running anything in them."""

from .files import SHIPPED, resolve, save
from .loading import Loaded, load

__all__ = ["SHIPPED", "Loaded", "load", "resolve", "save"]
