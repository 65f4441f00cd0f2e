"""Plain attention, as every network here computes it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attend(
    query: Float[Array, "batch token head feature"],
    key: Float[Array, "batch source head feature"],
    value: Float[Array, "batch source head feature"],
    **options,
) -> Float[Array, "batch token head feature"]:
    """Return plain attention; of float16 in float32, since not every device multiplies float16.

    Args:
        query, key, value: heads apart.
        options: as `jax.nn.dot_product_attention` takes them, such as ``mask``.
    """
    working = jnp.float32 if query.dtype == jnp.float16 else query.dtype
    arrays = (array.astype(working) for array in (query, key, value))
    return jax.nn.dot_product_attention(*arrays, **options).astype(query.dtype)
