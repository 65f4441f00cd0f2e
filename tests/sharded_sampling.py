"""Sample every rule with every solver on all devices at once; run by `test_devices` in a process.

Usage: python sharded_sampling.py FILE, with XLA_FLAGS asking for the number of devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from oracles import Labelled, gaussian, keys, weak
from test_rules import EVERY
from test_solvers import SOLVERS

from guidestar import samplers

COUNT = 16
NETWORKS = {"main": Labelled(gaussian), "guide": weak}
SIGMAS = samplers.karras(6, 0.02, 20.0)


def inputs():
    """Return noise, labels and keys of the batch."""
    noise = jax.random.normal(jax.random.key(0), (COUNT, 4, 4, 1))
    return noise, jnp.arange(COUNT) % 2, keys(COUNT)


def sharded(rule, solver):
    """Sample with the batch spread over all devices under `jax.jit`."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(value, spread) for value in inputs()]
    result = samplers.sample(NETWORKS, rule, solver, SIGMAS, *placed)
    assert len(result.sharding.device_set) == jax.device_count(), "the result was gathered"
    return result


def mapped(rule, solver):
    """Sample one share of the batch a device under `jax.pmap`."""
    split = [value.reshape(jax.device_count(), -1, *value.shape[1:]) for value in inputs()]
    run = jax.pmap(lambda *share: samplers.sample(NETWORKS, rule, solver, SIGMAS, *share))
    return run(*split).reshape(COUNT, 4, 4, 1)


def with_parameters(spread, x, sigma, condition):
    """Denoise Gaussian data whose spread is a parameter of every pixel."""
    mean = jnp.array([-1.0, 1.0, 0.0])[2 if condition is None else condition]
    mean = jnp.broadcast_to(mean, x.shape[:1])[:, None, None, None]
    wide = spread.reshape(x.shape[1:]) ** 2
    return mean + (x - mean) * wide / (wide + sigma**2)


def parametric(sharding=None):
    """Return networks whose parameters are placed as asked."""
    spreads = {"main": jnp.linspace(0.3, 0.7, 16), "guide": jnp.linspace(0.6, 1.2, 16)}
    return {
        name: jax.tree_util.Partial(with_parameters, jax.device_put(spread, sharding))
        for name, spread in spreads.items()
    }


def fsdp(rule, solver):
    """Sample with the parameters cut over all devices, and the batch too."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(value, spread) for value in inputs()]
    return samplers.sample(parametric(spread), rule, solver, SIGMAS, *placed)


if __name__ == "__main__":
    results = {
        f"{how.__name__}/{rule}/{solver}": np.asarray(how(EVERY[rule], SOLVERS[solver][0]))
        for how in (sharded, mapped, fsdp)
        for rule in EVERY
        for solver in SOLVERS
    }
    np.savez(sys.argv[1], **results)
