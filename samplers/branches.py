"""The engine behind a rule's ``evaluate``: branches of one network in one batched call, or in turn.

``fused`` stacks the branches of one network into one call, each sample's branches side by side
so that a batch sharded over devices stays where it is; ``sequential`` runs them one after
another in the memory of one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..guidance.protocol import GIVEN, NULL, Branch, Evaluate

MODES = ("fused", "sequential")
Networks = Mapping[str, Callable]


def evaluator(
    networks: Networks, x: Float[Array, " batch *shape"], sigma: Array, condition: Any, mode: str
) -> Evaluate:
    """Return ``evaluate(branches)`` at one noisy batch.

    Args:
        networks: denoisers ``(x, sigma, condition)`` by name.
        x: noisy samples, EDM coordinates.
        sigma: their noise level, a scalar.
        condition: what ``given`` means; an array, a pytree of arrays, or None.
        mode: ``fused`` or ``sequential``.
    """

    def call(name: str, x, resolved, forward_mode):
        options = {} if forward_mode is None else {"mode": forward_mode}
        return networks[name](x, sigma, resolved, **options)

    def evaluate(branches: Sequence[Branch]) -> tuple[Array, ...]:
        resolved = [_resolve(branch, networks[branch.network], condition) for branch in branches]
        results: list[Array | None] = [None] * len(branches)
        for group in _groups(branches, resolved, mode):
            first = branches[group[0]]
            if len(group) == 1:
                (i,) = group
                results[i] = call(first.network, x, resolved[i], first.mode)
                continue
            count = len(group)
            stacked = jax.tree.map(
                lambda *parts: jnp.stack(parts, axis=1).reshape((-1, *parts[0].shape[1:])),
                *(resolved[i] for i in group),
            )
            out = call(first.network, jnp.repeat(x, count, axis=0), stacked, first.mode)
            out = out.reshape((x.shape[0], count, *out.shape[1:]))
            for position, i in enumerate(group):
                results[i] = out[:, position]
        return tuple(results)

    return evaluate


def _resolve(branch: Branch, network: Callable, condition: Any) -> Any:
    if not isinstance(branch.condition, str):
        return branch.condition
    if branch.condition == GIVEN:
        return condition
    if branch.condition != NULL:
        raise ValueError(
            f"branch {branch.name!r} asks for the condition {branch.condition!r}; samplers.sample "
            f"knows {GIVEN!r} and {NULL!r}, anything else must be an array"
        )
    null = getattr(network, "null_condition", None)
    if null is None or condition is None:
        return None
    return jax.tree.map(
        lambda given, one: jnp.broadcast_to(jnp.asarray(one, given.dtype), given.shape),
        condition,
        jax.tree.map(lambda _: null, condition) if jnp.ndim(null) == 0 else null,
    )


def _groups(branches: Sequence[Branch], resolved: Sequence[Any], mode: str) -> list[list[int]]:
    """Group the branches that can share a call: same network, same mode, stackable condition."""
    if mode == "sequential":
        return [[i] for i in range(len(branches))]
    groups: dict[Any, list[int]] = {}
    for i, (branch, value) in enumerate(zip(branches, resolved, strict=True)):
        # None has no array to stack: a callable that knows no null condition gets None itself.
        alone = i if value is None else None
        shapes = jax.tree.structure(value), tuple(jnp.shape(v) for v in jax.tree.leaves(value))
        groups.setdefault((branch.network, branch.mode, alone, shapes), []).append(i)
    return list(groups.values())
