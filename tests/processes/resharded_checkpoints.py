"""Save on eight devices and read on others; run by `test_checkpoints` in a process.

Usage: python resharded_checkpoints.py FOLDER; XLA_FLAGS asks for the devices.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from processes.sharded_training import sharding

from guidestar.runtime.checkpointer import Checkpoints
from guidestar.runtime.sharding import layout

SECTIONS = {
    "saved": (dict(preset="fsdp"), 8),
    "four, whole": (dict(preset="pmap"), 4),
    "one": (dict(), 1),
    "eight, otherwise": (dict(preset="fsdp_tensor", mesh=dict(data=2, fsdp=2, tensor=2)), 8),
}


def values():
    """Return the state that is saved."""
    return {"w": jnp.arange(64 * 24.0).reshape(64, 24), "b": jnp.arange(64.0)}


def main(folder: Path) -> None:
    """Save it cut over eight devices, read it in every way, and compare."""
    shapes = jax.eval_shape(values)
    for name, (section, count) in SECTIONS.items():
        chosen = sharding(whole_below=0, **section)
        places = layout(**chosen, devices=jax.devices()[:count]).of_parameters(shapes)
        checkpoints = Checkpoints(folder / "checkpoints", {})
        if name == "saved":
            checkpoints.claim()
            state = jax.jit(values, out_shardings=places)()
            assert state["w"].addressable_shards[0].data.size == 64 * 24 // 8
            checkpoints.save(1, state, {}, wait=True)
            continue
        abstract = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            places,
        )
        _, found, _ = checkpoints.restore(abstract)
        for key, expected in values().items():
            assert found[key].sharding == places[key], name
            np.testing.assert_array_equal(found[key], expected)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
