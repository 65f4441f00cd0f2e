"""Losses in which several networks take part, one file each."""

from .output import DenoisingToTeacher

__all__ = ["DenoisingToTeacher"]
