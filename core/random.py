"""Randomness by global sample index: a sample never depends on its batch, device, mesh or host.

A run has one root key. Sample ``i`` draws from ``fold_in(fold_in(root, stream), i)``, streams
being named in one table, and from that key's own folds after it.
"""

import math
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .errors import UserError, WrongType
from .text import shown

# The one generator: under others (rbg) a `vmap` over keys draws from the first of them alone, so
# that a sample would depend on its batch.
GENERATOR = "threefry2x32"
ADVICE = f"guidestar.samplers.root_key(seed), or jax.random.key(seed, impl={GENERATOR!r})"
# Streams of a root key.
NOISE, STEPS, LABELS = 0, 1, 2
MEASUREMENTS = 3  # the noise of simulated ones
# Stream of a sample's key in one evaluation, beside the keys that rules fold for their own draws.
CONDITION_NOISE = 2**20
MEASUREMENT_NOISE, SMOOTHING = 2**20 + 1, 2**20 + 2
# Stream of a sample's key from which searches derive those of its candidates; steps are below.
CANDIDATES = 2**21
# Streams of a training run's root key.
PARAMETERS, TRAINING_STEPS = 0, 1


def checked_seed(seed: Any, name: str = "seed") -> int:
    """Return a seed.

    Args:
        seed: a whole number from 0 to 2^64 - 1.
        name: what the message calls it.

    Raises:
        UserError: anything else.
    """
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**64:
        raise UserError(f"{name} is {seed!r}: give a whole number from 0 to 2^64 - 1")
    return int(seed)


def root_key(seed: int) -> Key[Array, ""]:
    """Return the root key of a seed, of the generator `GENERATOR` whatever jax's default is.

    Below 2^32 it is ``jax.random.key(seed)`` as jax makes it by default; of larger seeds the high
    bits are folded in, so that no two seeds share a key.

    Raises:
        UserError: no whole number from 0 to 2^64 - 1.
    """
    high, low = divmod(checked_seed(seed), 2**32)
    key = jax.random.key(jnp.uint32(low), impl=GENERATOR)
    return jax.random.fold_in(key, jnp.uint32(high)) if high else key


def require_generator(owner: str, key: Any) -> None:
    """Refuse keys of a generator under which samples depend on their batch.

    Raises:
        ValueError: in the name of ``owner``.
    """
    if not jnp.issubdtype(getattr(key, "dtype", object), jax.dtypes.prng_key):
        raise WrongType(f"{owner}: {shown(key)} is no random key: make one by {ADVICE}")
    found = str(jax.random.key_impl(key))
    if found != GENERATOR:
        raise ValueError(
            f"{owner}: the key is of the generator {found}, under which a sample's numbers depend "
            f"on its batch: make it by {ADVICE}"
        )


def sample_keys(
    root: Any, stream: int, indices: Int[Array, " batch"] | Int[np.ndarray, " batch"]
) -> Key[Array, " batch"]:
    """Return one key a sample, ``fold_in(fold_in(root, stream), index)``.

    Raises:
        ValueError: a root key of another generator than `GENERATOR`.
    """
    root = _typed(root)
    require_generator("sample_keys", root)
    branch = jax.random.fold_in(root, stream)
    return jax.vmap(jax.random.fold_in, (None, 0))(branch, jnp.asarray(indices))


def keys_per_sample(owner: str, key: Any, batch: int) -> Key[Array, " batch"]:
    """Return one key a sample: ``fold_in(key, i)`` of a single key, several as they are.

    Raises:
        ValueError: another number of keys, or keys of another generator than `GENERATOR`, in the
            name of ``owner``.
    """
    key = _typed(key)
    require_generator(owner, key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(
            f"{owner}: key must be one key or one per sample ({batch}), got {key.shape}"
        )
    return key


def _typed(key: Any) -> Any:
    """Return a key, made of the two words that `jax.random.PRNGKey` gives where it is given so."""
    words = getattr(key, "dtype", None) == jnp.uint32 and jnp.shape(key)[-1:] == (2,)
    return jax.random.wrap_key_data(jnp.asarray(key), impl=GENERATOR) if words else key


def require_keys(owner: str, key: Key[Array, " batch"] | None) -> Key[Array, " batch"]:
    """Return the keys of a rule that draws.

    Raises:
        ValueError: there are none, in the name of ``owner``.
    """
    if key is None:
        raise ValueError(
            f"guidance.{owner} draws random numbers: give guidance.combine a key (a new one every "
            f"step)"
        )
    return key


def fold_each(keys: Key[Array, " batch"], data) -> Key[Array, " batch"]:
    """Fold one number into every sample's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def folded(key: Key[Array, " batch"] | None, number: int) -> Key[Array, " batch"] | None:
    """Return each sample's key for the ``number``-th of several independent draws."""
    return None if key is None else fold_each(key, number)


def unit_noise(
    keys: Key[Array, " batch"], shape: tuple[int, ...], dtype=float
) -> Float[Array, " batch *shape"]:
    """Draw standard normal noise of ``shape`` for every sample from its own key."""
    # Flat: the same numbers as of the shape itself, from a program that compiles in a third of the
    # time, the counter of a number being its place in row-major order.
    flat = (math.prod(shape),)
    return jax.vmap(lambda key: jax.random.normal(key, flat, dtype).reshape(shape))(keys)


def normal_like(
    keys: Key[Array, " batch"],
    array: Float[Array, " batch *shape"] | Float[np.ndarray, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    """Return unit normal noise of an array's shape and type, one key a sample."""
    return unit_noise(keys, array.shape[1:], array.dtype)
