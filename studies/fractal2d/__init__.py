"""The two-class fractal, from training to figures."""

from .experiment import experiment as run

__all__ = ["run"]
