"""What a noise level is called elsewhere: log-SNR, variance-preserving time, flow time.

The noise levels are EDM's, ``x = x0 + sigma * noise``. Plain numbers and numpy arrays are
answered by numpy in their own precision, jax arrays (traced ones too) by jax, so that derivatives
are `jax.grad`'s.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.noise_levels import flow_time, vp_sigma, vp_time

__all__ = [
    "COORDINATES",
    "convert",
    "flow_sigma",
    "flow_time",
    "log_snr_of",
    "log_snr_sigma",
    "vp_sigma",
    "vp_time",
]


def flow_sigma(t: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Return the noise level ``t / (1 - t)`` of the linear path ``(1 - t) x0 + t noise``.

    Args:
        t: in [0, 1); time 1 has no finite noise level.
    """
    return t / (1 - t)


def log_snr_of(sigma: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Return the logarithm of the ratio of variances, ``-2 log sigma``; infinite at 0."""
    if isinstance(sigma, jax.Array):
        return -2 * jnp.log(sigma)
    with np.errstate(divide="ignore"):
        return -2 * np.log(sigma)


def log_snr_sigma(log_snr: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Return the noise level ``exp(-log_snr / 2)`` of a log-SNR."""
    return (jnp if isinstance(log_snr, jax.Array) else np).exp(-log_snr / 2)


# name -> (from sigma, to sigma)
COORDINATES: dict[str, tuple[Callable, Callable]] = {
    "sigma": (lambda sigma: sigma, lambda sigma: sigma),
    "log_snr": (log_snr_of, log_snr_sigma),
    "vp": (vp_time, vp_sigma),
    "flow": (flow_time, flow_sigma),
}


def convert(value: Float[Array, "..."] | float, source: str, target: str) -> Float[Array, "..."]:
    """Return the same noise level in another coordinate.

    Args:
        value: noise levels in the coordinate ``source``: "sigma", "log_snr", "vp" (time of the
            standard variance-preserving process, up to 1, sigma about 152, where it stays) or
            "flow" (time of the linear path, below 1).
        source, target: names of coordinates.

    Raises:
        ValueError: an unknown coordinate.
    """
    for name in (source, target):
        if name not in COORDINATES:
            raise ValueError(
                f"samplers.convert: coordinates are {', '.join(COORDINATES)}, got {name!r}"
            )
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
    if source == target:
        return value
    return COORDINATES[target][0](COORDINATES[source][1](value))
