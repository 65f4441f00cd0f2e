"""Denoisers known in closed form, and the flows along which their samples move."""

from .gaussians import Gaussian, gaussian
from .line_mixtures import LineMixture, mixture_1d
from .mixture import GaussianMixture

__all__ = ["Gaussian", "GaussianMixture", "LineMixture", "gaussian", "mixture_1d"]
