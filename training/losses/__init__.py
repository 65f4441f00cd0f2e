"""Losses, one family a file; `training.recipes` composes them from a config."""

from .autoencoding import Autoencoding
from .classification import CrossEntropy
from .denoising import Denoising
from .flow_matching import FlowMatching
from .hybrid import Hybrid
from .loss import Loss
from .masked import Masked
from .score_matching import ScoreMatching
from .uncertainty import Uncertainty

__all__ = [
    "Autoencoding",
    "CrossEntropy",
    "Denoising",
    "FlowMatching",
    "Hybrid",
    "Loss",
    "Masked",
    "ScoreMatching",
    "Uncertainty",
]
