"""Random numbers that one sample draws from its own key, whatever batch it is in."""

import math

import jax
from jaxtyping import Array, Float, Key


def fold_each(keys: Key[Array, " batch"], data) -> Key[Array, " batch"]:
    """Fold one number into every sample's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def unit_noise(
    keys: Key[Array, " batch"], shape: tuple[int, ...], dtype=float
) -> Float[Array, " batch *shape"]:
    """Draw standard normal noise of ``shape`` for every sample from its own key."""
    # Flat: the same numbers as of the shape itself, from a program that compiles in a third of the
    # time, the counter of a number being its place in row-major order.
    flat = (math.prod(shape),)
    return jax.vmap(lambda key: jax.random.normal(key, flat, dtype).reshape(shape))(keys)


def normal_like(
    keys: Key[Array, " batch"], array: Float[Array, " batch *shape"]
) -> Float[Array, " batch *shape"]:
    """Return unit normal noise of an array's shape and type, one key a sample."""
    return unit_noise(keys, array.shape[1:], array.dtype)
