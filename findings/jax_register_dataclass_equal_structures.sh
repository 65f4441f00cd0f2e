#!/usr/bin/env bash
# jax 0.10.2: two classes registered by `jax.tree_util.register_dataclass`, with fields of the same
# names, flatten to structures that compare and hash equal, though unflattening gives each its own
# class back. Whatever is cached by structure (a dictionary from `jax.tree.structure` to a result)
# mixes the two up.
# Source: the output below.
# Seen: structures equal: True; classes that come back: Add Multiply
source "$(dirname "$0")/common.sh"
python_with jax==0.10.2
"$python" - <<'PY'
import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Add:
    by: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Multiply:
    by: float


one, other = jax.tree.structure(Add(2.0)), jax.tree.structure(Multiply(2.0))
back = [type(jax.tree.unflatten(s, [1.0])).__name__ for s in (one, other)]
print("structures equal:", one == other, "; classes that come back:", *back)
assert one == other and back == ["Add", "Multiply"], "no longer as described"
PY
