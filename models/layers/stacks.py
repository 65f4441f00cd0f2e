"""Stacks of equal blocks, run one after another or scanned over their stacked parameters."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ...core.sites import for_layer, runs


def stack(make: Callable[..., nnx.Module], depth: int, scan_layers: bool, rngs: nnx.Rngs) -> Any:
    """Build equal blocks.

    Args:
        make: builds one from ``rngs=``.
        depth: how many.
        scan_layers: one block whose parameters have an axis of layers in front, to be scanned, so
            that time to compile is independent of depth; a list of blocks otherwise.
        rngs: draws the parameters.
    """
    if scan_layers:
        return nnx.vmap(lambda keys: make(rngs=keys))(rngs.split(depth))
    return nnx.List([make(rngs=rngs) for _ in range(depth)])


def through(
    blocks: Any,
    depth: int,
    h: Any,
    modes: Sequence,
    run: Callable[[nnx.Module, Any, tuple], Any],
    first: int = 0,
) -> Any:
    """Pass ``h`` through all blocks of a `stack`.

    Args:
        blocks, depth: the stack and its depth.
        h: what goes through: an array, or a pytree that keeps its shapes and types.
        modes: pairs (mode, where), of which every block is given those that hold in it.
        run: ``run(block, h, held) -> h``.
        first: the number that modes know the stack's first block by.
    """
    if isinstance(blocks, nnx.List):
        for layer, block in enumerate(blocks):
            h = run(block, h, for_layer(modes, first + layer))
        return h
    structure, stacked = nnx.split(blocks)
    for layers, held in runs(modes, depth, first):

        def scanned(h, parameters, held=held):
            return run(nnx.merge(structure, parameters), h, held), None

        def numbered(h, layer, scanned=scanned):
            take = partial(jax.lax.dynamic_index_in_dim, index=layer, keepdims=False)
            return scanned(h, jax.tree.map(take, stacked))

        # A slice of the stack would copy its parameters at every evaluation, so part of it is
        # indexed; that is slow to differentiate in the parameters, so all of it is scanned.
        if len(layers) == depth:
            h, _ = jax.lax.scan(scanned, h, stacked)
        else:
            h, _ = jax.lax.scan(numbered, h, jnp.asarray(layers))
    return h
