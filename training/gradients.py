"""Gradients of a batch: in one go, in micro-batches, with activations computed again."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ..core.errors import UserError
from ..core.sites import BLOCK, EVERY_LAYER
from ..models.denoiser import Network
from .gathering import all_but_gathered

# name -> which results of a block are kept for the backward pass; the others are computed again.
POLICIES = {
    "none": all_but_gathered,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def gradients(
    gradient: Callable,
    params: Any,
    batch: Mapping[str, Any],
    root: Key[Array, ""],
    *,
    accumulate: int = 1,
    axis: str | None = None,
) -> tuple[Any, dict[str, Array]]:
    """Return the gradient and the metrics of a whole batch.

    The example at position ``i`` of the batch gets the key ``fold_in(root, i)``, however the
    batch is cut. Micro-batches are every ``accumulate``-th example, so that the examples of one
    are spread over the devices like the batch.

    Args:
        gradient: ``(params, batch, keys) -> (gradient, metrics)``, all of them means over the
            examples given (see `training.objectives`).
        params: the parameters.
        batch: a pytree of arrays ``[batch, ...]``, ``x`` among them; what one
            device holds where ``axis`` is given.
        root: key of the step.
        accumulate: number of micro-batches, which divides the batch.
        axis: the name under `jax.pmap` of the axis of devices, over which means are taken.
    """
    count = len(batch["x"])
    first = 0 if axis is None else jax.lax.axis_index(axis) * count
    keys = jax.vmap(partial(jax.random.fold_in, root))(first + jnp.arange(count))
    if accumulate == 1:
        result = gradient(params, batch, keys)
    else:
        shape = (count // accumulate, accumulate)
        micro = jax.tree.map(
            lambda a: jnp.moveaxis(a.reshape(*shape, *a.shape[1:]), 1, 0), (batch, keys)
        )

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, *part)), None

        like = jax.eval_shape(gradient, params, *jax.tree.map(lambda a: a[0], micro))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
        total, _ = jax.lax.scan(add, zeros, micro)
        result = jax.tree.map(lambda a: a / accumulate, total)
    return result if axis is None else jax.lax.pmean(result, axis)


@dataclasses.dataclass(frozen=True)
class _Recompute:
    """A forward mode that keeps of a block what the policy names."""

    policy: str
    name = "remat"
    site = BLOCK
    layers = EVERY_LAYER

    def block(self, run: Callable, tokens: Array) -> Array:
        return jax.checkpoint(run, policy=POLICIES[self.policy])(tokens)


@dataclasses.dataclass(frozen=True)
class Rematerialised(Network):
    """A network whose blocks are computed again in the backward pass, in part or whole.

    Attributes:
        policy: one of `POLICIES`: ``full`` keeps a block's input alone, ``dots`` the results of
            matrix products too, ``dots_no_batch`` those of products with parameters, ``none``
            everything but parameters that were gathered.
    """

    policy: str = "full"

    def __call__(self, params, x, time, condition, modes=(), **inputs):
        """Run the module with ``params``."""
        run = super().__call__
        if BLOCK in self.sites:
            modes = (*modes, (_Recompute(self.policy), None))
            return run(params, x, time, condition, modes, **inputs)
        # Without blocks there is nothing to do layer by layer, but for gathering again.
        again = jax.checkpoint(
            lambda *given: run(*given, modes, **inputs), policy=POLICIES[self.policy]
        )
        return again(params, x, time, condition)


def rematerialised(network: Network, policy: str, *, gathered: bool = False) -> Network:
    """Return the network as it is trained under a policy of `POLICIES`.

    Args:
        network: as it was split.
        policy: its name; every one gathers again what `training.gathering` gathered.
        gathered: whether there is anything of that kind.

    Raises:
        UserError: an unknown policy, or a network that has no blocks to compute again.
    """
    if policy not in POLICIES:
        raise UserError(f"training.remat {policy!r} is not one of {', '.join(POLICIES)}")
    if policy == "none" and not gathered:
        return network
    if policy != "none" and BLOCK not in network.sites:
        raise UserError(
            f"training.remat {policy!r} computes a network's blocks again, and this one "
            f"offers no site named {BLOCK!r}: use none"
        )
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(network)}
    return Rematerialised(**fields, policy=policy)
