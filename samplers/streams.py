"""Randomness by global sample index: an image never depends on batch, device, mesh or host."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

# Streams of one root key.
NOISE, STEPS, LABELS = 0, 1, 2


def sample_keys(
    root: Key[Array, ""], stream: int, indices: Int[Array, " batch"]
) -> Key[Array, " batch"]:
    """Return one key a sample, ``fold_in(fold_in(root, stream), index)``."""
    branch = jax.random.fold_in(root, stream)
    return jax.vmap(jax.random.fold_in, (None, 0))(branch, jnp.asarray(indices))
