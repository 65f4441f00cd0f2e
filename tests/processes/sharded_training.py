"""Train tiny networks on eight devices in every way; run by `test_sharding` in a process.

Usage: python sharded_training.py FILE everyday|longer; XLA_FLAGS asks for the devices.
"""

import re
import sys

import jax
import numpy as np
from ml_collections import ConfigDict
from tiny_configs.configs import setup, tiny

from guidestar.runtime.sharding import layout, on_one_device

BATCH, STEPS = 32, 20
MODELS = {
    "dit": dict(
        name="dit",
        image_size=8,
        channels=1,
        num_classes=10,
        patch_size=2,
        width=64,
        depth=2,
        heads=4,
        scan_layers=True,
    ),
    "edm2": dict(
        name="edm2_unet",
        image_size=8,
        channels=1,
        num_classes=10,
        model_channels=16,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=16,
        log_variance_features=16,
    ),
}
# name -> section of the config, what else is asked of a step, and in how many parts parameters are.
WAYS = {
    "replicated": (dict(), dict(), 1),
    "fsdp": (dict(preset="fsdp"), dict(), 8),
    "fsdp_tensor": (dict(preset="fsdp_tensor"), dict(), 8),
    "pmap": (dict(preset="pmap"), dict(), 1),
    "three axes": (dict(preset="fsdp_tensor", mesh=dict(data=2, fsdp=2, tensor=2)), dict(), 4),
    "rules": (
        dict(mesh=dict(data=2, fsdp=2, tensor=2), rules=(("kernel$", ("fsdp", None)),)),
        dict(),
        2,
    ),
    "fsdp in four parts": (dict(preset="fsdp"), dict(accumulate=4), 8),
    "pmap in two parts": (dict(preset="pmap"), dict(accumulate=2), 1),
    "fsdp, full": (dict(preset="fsdp"), dict(remat="full"), 8),
}
EVERYDAY = [("dit", "fsdp")]


def pairs(*, longer: bool) -> list[tuple[str, str]]:
    """Return (model, way): the everyday ones, or all the others."""
    every = [(model, way) for model in MODELS for way in WAYS if model == "dit" or way != "rules"]
    return [pair for pair in every if (pair in EVERYDAY) != longer]


def batches():
    """Return the batches of a run."""
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        image = random.normal(size=(BATCH, 8, 8, 1)).astype(np.float32)
        yield {"x": image, "condition": random.integers(0, 11, BATCH).astype(np.int32)}


def sharding(**section) -> ConfigDict:
    """Return a config's section with fields of it replaced."""
    config = tiny().sharding
    config.update(section)
    return config


def setup_of(model: str, devices):
    """Return what a run of a model starts from."""
    config = tiny()
    config.model = ConfigDict(MODELS[model])
    config.optimizer.update(warmup_steps=1, schedule="constant", decay_steps=0, learning_rate=5e-4)
    return setup(config, devices)


def trained(model: str, devices, *, seed: int = 3, **step) -> tuple[np.ndarray, np.ndarray, float]:
    """Return losses, parameters and the largest share of them that a device holds."""
    start = setup_of(model, devices)
    state, advance = start.create(jax.random.key(0)), start.step(seed, **step)
    losses = []
    for batch in batches():
        before = state
        with jax.transfer_guard("disallow"):
            state, metrics = advance(state, devices.place(batch, BATCH))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), "two states at once"
        losses.append(float(jax.device_get(metrics["loss"])))
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(start.abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim), "an array moved"
    leaves = jax.tree.leaves(state.main.params)
    held = {device: 0 for device in devices.mesh.devices.flat}
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    share = max(held.values()) / sum(leaf.nbytes for leaf in leaves)
    params = np.concatenate([np.ravel(leaf) for leaf in jax.device_get(leaves)])
    return np.array(losses), params, share


def gathered_shapes(model: str, devices) -> tuple[set, set]:
    """Return the shapes that a step's program gathers or exchanges, and those of parameters."""
    start = setup_of(model, devices)
    batch = {
        "x": jax.ShapeDtypeStruct((BATCH, 8, 8, 1), np.float32, sharding=devices.batch),
        "condition": jax.ShapeDtypeStruct((BATCH,), np.int32, sharding=devices.batch),
    }
    text = start.step(3).lower(start.abstract, batch).compile().as_text()
    found = re.findall(r"f32\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)\(", text)
    shapes = {leaf.shape for leaf in jax.tree.leaves(start.abstract.main.params)}
    # A layer of a stack is gathered by itself.
    shapes |= {shape[1:] for shape in shapes} | {(1, *shape[1:]) for shape in shapes}
    return {tuple(map(int, f.split(","))) for f in found if f}, shapes


def on_one(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Return losses and parameters from one device."""
    return trained(model, on_one_device(jax.devices()[0]))[:2]


if __name__ == "__main__":
    results = {}
    for model, way in pairs(longer=sys.argv[2] == "longer"):
        section, step, _ = WAYS[way]
        results[f"{model}/{way}/losses"], results[f"{model}/{way}/params"], share = trained(
            model, layout(**sharding(**section)), **step
        )
        results[f"{model}/{way}/share"] = np.array(share)
    if sys.argv[2] == "everyday":
        moved, params = gathered_shapes("dit", layout(**sharding(preset="fsdp")))
        assert moved, "nothing is gathered"
        # In whatever order the compiler lays the dimensions out; a label's embedding is small.
        known = [sorted(shape) for shape in params]
        strange = {s for s in moved if sorted(s) not in known and np.prod(s) > BATCH}
        assert not strange, f"activations are moved, not parameters: {strange}"
    np.savez(sys.argv[1], **results)
