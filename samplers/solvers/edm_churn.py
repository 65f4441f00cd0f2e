"""Heun's method after fresh noise at each step (Karras et al., arXiv 2206.00364, algorithm 2)."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.random import normal_like
from ...core.registry import register
from ..checks import plain
from .heun import heun
from .solver import Interval, Memoryless, Solver


class Churn(NamedTuple):
    """A step's constants.

    Attributes:
        sigma: the noise level that x is raised to.
        noise: standard deviation of what is added for it.
        down: the constants of the step from there.
    """

    sigma: Float[Array | np.ndarray, " *steps"]
    noise: Float[Array | np.ndarray, " *steps"]
    down: Any


@pytree
class EdmChurn(Memoryless):
    """Noise up to a higher level, then a step down from there; second order without noise.

    Attributes:
        s_churn: how much the noise levels of a whole run are raised.
        s_tmin, s_tmax: the noise levels from which steps are raised.
        s_noise: what the added noise is multiplied by.
        down: the step from the raised level.
    """

    order: ClassVar[int] = 2
    s_churn: float
    s_tmin: float
    s_tmax: float
    s_noise: float
    down: Solver

    def tables(self, sigmas):
        """Return each step's `Churn`."""
        return self.tables_within(sigmas, np.full(len(sigmas) - 1, np.inf))

    def tables_within(self, sigmas, highest):
        """Return each step's `Churn`, raised no further than ``highest``."""
        start = sigmas[:-1]
        churned = (start >= self.s_tmin) & (start <= self.s_tmax)
        gamma = np.where(churned, min(self.s_churn / len(start), math.sqrt(2) - 1), 0)
        gamma = np.minimum(gamma, np.maximum(highest / start - 1, 0))
        raised = (1 + gamma) * start
        noise = self.s_noise * start * np.sqrt(gamma * (2 + gamma))
        each = map(self.down.tables, np.stack([raised, sigmas[1:]], axis=1))
        return Churn(raised, noise, jax.tree.map(lambda *rows: np.concatenate(rows), *each))

    def step(self, denoise, x, interval, state, key):
        raised = interval.table
        x = x + raised.noise * normal_like(key, x)
        down = Interval(raised.sigma, interval.end, raised.down)
        return self.down.step(denoise, x, down, state, key)

    def at(self, step, sigmas):
        """Return the same with Euler's step down for a step to 0."""
        return dataclasses.replace(self, down=self.down.at(step, sigmas))


@register("solver")
def edm_churn(
    s_churn: float = 40.0, s_tmin: float = 0.05, s_tmax: float = 50.0, s_noise: float = 1.003
) -> EdmChurn:
    """Return EDM's stochastic sampler; ``2 * steps - 1`` evaluations when it ends in 0.

    A step from sigma first adds noise up to ``(1 + gamma) sigma``,
    ``gamma = min(s_churn / steps, sqrt(2) - 1)``:
    ``x_hat = x + s_noise sqrt((1 + gamma)^2 - 1) sigma z``, and then takes Heun's step from there;
    Euler's to 0, which returns the prediction. The defaults are the paper's for 256 steps on
    ImageNet at 64 pixels.

    The denoiser is asked at noise levels up to ``(1 + gamma) s_tmax``; one with a ``sigma_range``
    no higher than its end, beyond which no noise is added.

    Args:
        s_churn: 0 is Heun's method.
        s_tmin, s_tmax: noise levels, both included, from which steps add noise; others are
            Heun's.
        s_noise: factor of the noise; above 1 makes up for a denoiser that removes too much.

    Raises:
        ValueError: numbers that are negative or not finite, or s_tmin above s_tmax.

    Source: Karras et al., arXiv 2206.00364, algorithm 2.
    """
    plain("edm_churn", s_churn=s_churn, s_tmin=s_tmin, s_noise=s_noise)
    if min(s_churn, s_noise) < 0:
        raise ValueError(
            f"samplers.edm_churn: need s_churn >= 0 and s_noise >= 0, got {s_churn} and {s_noise}; "
            f"s_churn=0 adds no noise"
        )
    s_tmax = float(s_tmax)
    if not 0 <= s_tmin <= s_tmax:
        raise ValueError(
            f"samplers.edm_churn: need 0 <= s_tmin <= s_tmax, got {s_tmin} and {s_tmax}; s_churn=0 "
            f"adds no noise anywhere"
        )
    return EdmChurn(float(s_churn), float(s_tmin), s_tmax, float(s_noise), heun())
