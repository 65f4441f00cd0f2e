"""A network's time input as sines and cosines of many frequencies."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

TIME_FREQUENCIES = 256


def time_features(time: Float[Array, " batch"]) -> Float[Array, "batch 256"]:
    """Sinusoidal features of the network's time input, cosines first, periods 2*pi to 2e4*pi."""
    half = TIME_FREQUENCIES // 2
    angles = time.astype(jnp.float32)[:, None] * jnp.exp(
        -math.log(10000.0) / half * jnp.arange(half, dtype=jnp.float32)
    )
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sinusoids(
    time: Float[Array, " batch"], channels: int, *, endpoint: bool, sine_first: bool
) -> Float[Array, "batch channels"]:
    """Return sines and cosines of ``time * 10000^-f``, f evenly from 0 to 1.

    Args:
        time: the network's time input.
        channels: of the result, even.
        endpoint: whether f reaches 1.
        sine_first: which half holds the sines.
    """
    half = channels // 2
    steps = half - 1 if endpoint else half
    angles = time.astype(jnp.float32)[:, None] * jnp.exp(
        -math.log(10000.0) / steps * jnp.arange(half, dtype=jnp.float32)
    )
    halves = (jnp.sin(angles), jnp.cos(angles))
    return jnp.concatenate(halves if sine_first else halves[::-1], axis=-1)
