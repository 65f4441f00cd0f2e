"""Guidestar: guidance for diffusion models in JAX."""

from . import guidance, models, samplers

__all__ = ["guidance", "models", "samplers"]
