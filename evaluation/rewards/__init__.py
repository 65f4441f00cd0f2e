"""Rewards of clean samples, for guidance, particles and searches: see `core.rewards.Reward`."""

from .class_probability import classifier
from .combinations import rank_mean, weighted
from .decoded_latents import decoded
from .host_functions import host
from .measured_likelihood import likelihood

__all__ = ["classifier", "decoded", "host", "likelihood", "rank_mean", "weighted"]
