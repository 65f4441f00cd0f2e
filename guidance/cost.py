"""What a rule costs, known before anything runs: counted by tracing it on shapes alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .protocol import Branch, Evaluate, Rule


def counting(x: Float[Array, " batch *shape"]) -> tuple[Evaluate, Counter[str]]:
    """Return an ``evaluate`` that answers every branch with ``x``, and its count by network."""
    counts: Counter[str] = Counter()

    def evaluate(branches: Sequence[Branch]) -> tuple[Array, ...]:
        counts.update(branch.network for branch in branches)
        return tuple(x for _ in branches)

    return evaluate, counts


def evaluations(rule: Rule, x: Float[Array, " batch *shape"]) -> dict[str, int]:
    """Count the network evaluations of one guided prediction, by network name.

    Args:
        rule: a rule as it holds at one noise level (``rule.at(sigma)``).
        x: an array, or the shape and type of one, like the samples'.
    """
    counted: Counter[str] = Counter()

    def trace(rule, x):
        evaluate, counts = counting(x)
        keys = jax.vmap(jax.random.key)(jnp.arange(x.shape[0]))
        result = rule.apply(evaluate, x, jnp.ones((), x.dtype), rule.init(x), keys)
        counted.update(counts)
        return result

    jax.eval_shape(trace, rule, x)
    return dict(counted)


def cost(rule: Rule, sigmas: Sequence[float]) -> list[dict[str, int]]:
    """Count the network evaluations of one guided prediction at each noise level.

    Args:
        rule: any rule.
        sigmas: noise levels; not the final 0, where nothing is evaluated.

    Returns:
        For each sigma, evaluations by network name, ``{"main": 2}`` for CFG.
    """
    x = jax.ShapeDtypeStruct((2, 4, 4, 2), jnp.float32)
    counted: dict[Any, dict[str, int]] = {}
    result = []
    for sigma in sigmas:
        holds = rule.at(float(sigma))
        kind = jax.tree.structure(holds)
        if kind not in counted:
            counted[kind] = evaluations(holds, x)
        result.append(dict(counted[kind]))
    return result
