"""Parameters cut over `fsdp` are gathered where a network reads them, one layer at a time.

Left to itself, the compiler may move activations instead: it compares sizes, and those of a small
batch are smaller. Inside a scan over layers one layer's slice is gathered, never the stack.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ..models.denoiser import Network
from ..runtime.sharding import Layout, path_of


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather(value: jax.Array, stored: NamedSharding, used: NamedSharding) -> jax.Array:
    """Return ``value`` placed as ``used``; its gradient comes back placed as ``stored``."""
    return jax.lax.with_sharding_constraint(value, used)


def _forward(value, stored, used):
    # Not a call of `gather`, which would hide the constraint from `all_but_gathered`.
    return jax.lax.with_sharding_constraint(value, used), None


def _backward(stored, used, _, gradient):
    return (jax.lax.with_sharding_constraint(gradient, stored),)


gather.defvjp(_forward, _backward)


class Gathered(nnx.Param):
    """A parameter that is gathered when it is read: kept as ``stored``, read as ``used``."""

    def get_value(self, **options):
        """Return the whole value, or the part that ``index`` asks for."""
        value = self.get_raw_value()
        # One layer of a stack has the last dimensions of the stack's placement.
        stored, used = (
            NamedSharding(of.mesh, PartitionSpec(*of.spec[max(len(of.spec) - value.ndim, 0) :]))
            for of in (self.stored, self.used)
        )
        index = options.get("index", ...)
        value = gather(value, stored, used)
        return value if index is ... else value[index]


def gathered(network: Network, params: Any, layout: Layout) -> Network:
    """Return the network with every parameter that is cut gathered where it is read.

    Args:
        network: as it was split.
        params: its parameters or their shapes.
        layout: of the devices.
    """
    placed = {
        path_of(keys): pair
        for (keys, *pair) in _zipped(layout.of_parameters(params), layout.of_use(params))
    }

    def replace(keys, variable):
        stored, used = placed.get(path_of(keys), (None, None))
        if stored is None or stored.is_equivalent_to(used, len(variable.get_raw_value().shape)):
            return variable
        return Gathered(variable.get_raw_value(), stored=stored, used=used)

    module = jax.tree_util.tree_map_with_path(
        replace, network.module(params), is_leaf=lambda node: isinstance(node, nnx.Variable)
    )
    return dataclasses.replace(network, structure=nnx.split(module, nnx.Param)[0])


def _zipped(first: Any, second: Any):
    for (keys, a), b in zip(
        jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True
    ):
        yield keys, a, b


def all_but_gathered(primitive, *_, **__) -> bool:
    """Say, as a policy of `jax.checkpoint`, that all results are kept but gathered parameters.

    The backward pass gathers them again; kept, they would fill the memory that cutting them saved.
    """
    return primitive.name != "sharding_constraint"
