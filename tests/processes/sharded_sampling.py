"""Sample every rule, and every solver, on all devices at once; run by `test_devices` in a process.

Usage: python sharded_sampling.py FILE everyday|longer; XLA_FLAGS asks for the devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from oracles.analytic import keys
from oracles.toy_network import NETWORKS, Toy, toy_classifier
from tables.everyday import one_of_each_way
from tables.rule_table import EVERY, RENOISING
from tables.solver_table import SOLVERS, STEPS

from guidestar import samplers

COUNT = 16
# From noise of the data's order, so that samples stay of order 1 and 1e-5 is above rounding; the
# first for rules, of few steps for the same reason.
SHORT, LONG = (samplers.karras(steps, 0.1, 2.5) for steps in (3, STEPS))
# One solver of each kind of state and of each way to draw noise.
KINDS = ("heun", "dpmpp", "unipc", "evodiff", "pndm", "per_step")
KINDS += ("ancestral", "dpmpp_3m_sde", "edm_churn", "consistency")
FOR_SOLVERS = ("unguided", "cfg", "apg", "between(cfg)", "cfgpp")


def pairs(*, longer: bool):
    """Return (how, rule, solver): the everyday ones, or all the others.

    Every day: rules of each way on a sharded batch, solvers of each kind with CFG, and two rules in
    the other ways. Longer: every rule in every way, and every solver with a few rules.
    """
    ways = [(how, rule, "euler") for how in ("sharded", "mapped", "fsdp") for rule in EVERY]
    for solver, (made, *_) in SOLVERS.items():
        rules = [r for r in FOR_SOLVERS if made.renoises or r not in RENOISING]
        ways += [("sharded", rule, solver) for rule in rules if solver != "euler"]

    def everyday(how, rule, solver):
        if solver != "euler":
            return rule == "cfg" and solver in KINDS
        return one_of_each_way(rule) if how == "sharded" else rule in ("cfg", "apg")

    return [way for way in ways if everyday(*way) != longer]


def sigmas(solver):
    """Return the schedule on which a solver, by name, is tested."""
    return SHORT if solver == "euler" else LONG


def inputs():
    """Return noise, labels and keys of the batch."""
    noise = jax.random.normal(jax.random.key(0), (COUNT, 4, 4, 1))
    return noise, jnp.arange(COUNT) % 2, keys(COUNT)


def sharded(rule, solver, sigmas):
    """Sample with the batch spread over all devices under `jax.jit`."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(value, spread) for value in inputs()]
    result = samplers.sample(NETWORKS, rule, solver, sigmas, *placed)
    assert len(result.sharding.device_set) == jax.device_count(), "the result was gathered"
    return result


def mapped(rule, solver, sigmas):
    """Sample one share of the batch a device under `jax.pmap`."""
    split = [value.reshape(jax.device_count(), -1, *value.shape[1:]) for value in inputs()]
    run = jax.pmap(lambda *share: samplers.sample(NETWORKS, rule, solver, sigmas, *share))
    return run(*split).reshape(COUNT, 4, 4, 1)


def with_parameters(spread, x, sigma, condition, modes=(), to=None):
    """Denoise with a network whose opinion is weighted by a parameter of every pixel."""
    weight = spread.reshape(x.shape[1:]) if x.shape[1:] == (4, 4, 1) else spread.mean()
    return weight * Toy()(x, sigma, condition, modes, to)


def parametric(sharding=None):
    """Return networks whose parameters are placed as asked."""
    spreads = {"main": jnp.linspace(0.8, 1.2, 16), "guide": jnp.linspace(0.6, 0.9, 16)}
    networks = {
        name: jax.tree_util.Partial(with_parameters, jax.device_put(spread, sharding))
        for name, spread in spreads.items()
    }
    return networks | {"classifier": toy_classifier}


def fsdp(rule, solver, sigmas):
    """Sample with the parameters cut over all devices, and the batch too."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(value, spread) for value in inputs()]
    return samplers.sample(parametric(spread), rule, solver, sigmas, *placed)


if __name__ == "__main__":
    results = {
        "/".join(way): np.asarray(
            globals()[how](EVERY[rule], SOLVERS[solver].solver, sigmas(solver))
        )
        for way in pairs(longer=sys.argv[2] == "longer")
        for how, rule, solver in [way]
    }
    np.savez(sys.argv[1], **results)
