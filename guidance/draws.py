"""Random numbers that one sample draws from its own key, whatever batch it is in."""

import jax
from jaxtyping import Array, Float, Key


def normal_like(
    keys: Key[Array, " batch"], array: Float[Array, " batch *shape"]
) -> Float[Array, " batch *shape"]:
    """Return unit normal noise of an array's shape and type, one key a sample."""
    return jax.vmap(lambda key: jax.random.normal(key, array.shape[1:], array.dtype))(keys)
