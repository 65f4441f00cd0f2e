"""Noise levels as times in [0, 1], 1 being pure noise: what schedules of guidance are written in.

The noise levels are EDM's, ``x = x0 + sigma * noise``. Plain numbers and numpy arrays are
answered by numpy in their own precision, jax arrays (traced ones too) by jax.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The linear schedule of variance-preserving diffusion (Song et al., arXiv 2011.13456, app. C).
BETA_MIN, BETA_MAX = 0.1, 20.0


def vp_time(sigma: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Return the time at which variance-preserving diffusion has noise level ``sigma``.

    ``sigma(t)^2 = 1 / alpha_bar(t) - 1`` solved for t.

    Args:
        sigma: EDM noise level, 0 or more. Above `vp_sigma` of 1, about 152, the time stays at 1.
    """
    return _library(sigma).minimum(linear_time(sigma, BETA_MIN, BETA_MAX), 1)


def linear_time(sigma, beta_min: float, beta_max: float) -> Float[Array, "..."]:
    """Solve ``log(1 + sigma^2) = (beta_max - beta_min) t^2 / 2 + beta_min t`` for t.

    Args:
        sigma: EDM noise level, 0 or more.
        beta_min, beta_max: of any linear schedule; plain numbers, the first may be negative.
    """
    of = _library(sigma)
    exponent = of.log1p(of.square(sigma))
    root = of.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * exponent)
    # The root of the quadratic in whichever form does not cancel for small sigma.
    if beta_min < 0:
        return (root - beta_min) / (beta_max - beta_min)
    return 2 * exponent / (beta_min + root)


def vp_sigma(t: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Return the noise level of variance-preserving diffusion at a time.

    ``sqrt(1 / alpha_bar(t) - 1)`` with
    ``alpha_bar(t) = exp(-(beta_max - beta_min) t^2 / 2 - beta_min t)``, beta from 0.1 to 20.

    Args:
        t: in [0, 1].

    Source: Song et al., arXiv 2011.13456, appendix C.
    """
    of = _library(t)
    return of.sqrt(of.expm1((BETA_MAX - BETA_MIN) / 2 * of.square(t) + BETA_MIN * t))


def flow_time(sigma: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Return the time of the linear path ``(1 - t) x0 + t noise``, ``sigma / (1 + sigma)``."""
    return sigma / (1 + sigma)


TIMES = {"vp": vp_time, "flow": flow_time}


def checked_time(owner: str, time: str) -> str:
    """Return the name of a time.

    Raises:
        ValueError: not one of `TIMES`, in the name of ``owner``.
    """
    if time not in TIMES:
        raise ValueError(f"guidance.{owner}: time must be one of {', '.join(TIMES)}, got {time!r}")
    return time


def _library(value):
    return jnp if isinstance(value, jax.Array) else np
