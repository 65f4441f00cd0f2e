#!/usr/bin/env bash
# jax 0.10.2: with keys of the generator `rbg` (JAX_DEFAULT_PRNG_IMPL=rbg, advised for speed on TPU)
# `jax.vmap(jax.random.normal)` over a batch of keys draws the whole batch from the first key. A row
# is not what its key gives alone, and changes with the key in front and with the batch. With the
# default threefry a row of a vmap is what its key gives.
# Source: the output below; jax's documentation of jax.random says of rbg that vmap over keys does
# not give what the keys give one by one.
# Seen: threefry2x32 True True, rbg True False (row 0 alone equal, row 1 alone equal)
source "$(dirname "$0")/common.sh"
python_with jax==0.10.2
"$python" - <<'PY'
import jax
import numpy as np

found = {}
for generator in ("threefry2x32", "rbg"):
    keys = jax.random.split(jax.random.key(0, impl=generator), 2)
    both = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys))
    alone = [np.asarray(jax.random.normal(key, (4,))) for key in keys]
    found[generator] = [bool(np.array_equal(both[i], alone[i])) for i in range(2)]
    print(generator, *found[generator])
assert found["threefry2x32"] == [True, True], "no longer as described"
assert found["rbg"][1] is False, "no longer as described"
PY
