"""The diagonal Gaussian that an encoder returns (Kingma & Welling, arXiv 1312.6114)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Bounds of the published encoders' log variance: beyond them its exponential is 0 or infinite.
LOG_VARIANCE_RANGE = (-30.0, 20.0)


def from_moments(
    moments: Float[Array, "*batch h w moments"],
) -> tuple[Float[Array, "*batch h w moments/2"], Float[Array, "*batch h w moments/2"]]:
    """Cut an encoder's output into mean and log variance, the latter bounded, both float32."""
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)


def draw(mean: Array, log_variance: Array, noise: Array) -> Array:
    """Return ``mean + std * noise``: a sample, given unit normal noise."""
    return mean + jnp.exp(0.5 * log_variance) * noise


def kl_to_unit(mean: Array, log_variance: Array) -> Array:
    """Return each element's divergence from N(0, 1) in nats, ``(m^2 + s^2 - 1 - ln s^2) / 2``."""
    return 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
