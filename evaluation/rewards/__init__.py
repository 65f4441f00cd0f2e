"""Rewards of clean samples, for guidance, particles and searches: see `core.rewards.Reward`."""

from .class_probability import classifier
from .measured_likelihood import likelihood

__all__ = ["classifier", "likelihood"]
