"""Denoisers known in closed form, and the flows along which their samples move."""

from .gaussians import Gaussian, gaussian
from .line_mixtures import LineMixture, mixture_1d
from .mixture import GaussianMixture
from .tilting import Tilted, soft_value, tilted

__all__ = [
    "Gaussian",
    "GaussianMixture",
    "LineMixture",
    "Tilted",
    "gaussian",
    "mixture_1d",
    "soft_value",
    "tilted",
]
