"""What a rule costs, known before anything runs: counted by tracing it on shapes alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.calls import takes_parts
from ..core.random import root_key
from .protocol import CLASSIFIER, MAIN, Branch, Rule
from .structure import along

# Shapes decide nothing about a count, but windows must fit: as large as usual latents.
SHAPE = (64, 64, 4)


class Counting:
    """An ``evaluate`` that answers every branch with ``x`` and counts them by network.

    Attributes:
        counts: evaluations by network name; see `cost` for what else is counted.
        condition: labels 0.
        end: where the step ends, 0.
    """

    def __init__(self, x: Float[Array, " batch *shape"]):
        self.x, self.counts = x, Counter[str]()
        self.condition = jnp.zeros(x.shape[0], jnp.int32)
        self.end = jnp.zeros((), x.dtype)

    def note(self, counts: Mapping[str, int]) -> None:
        """Count what a rule does beside forward passes."""
        self.counts.update(counts)

    def __call__(
        self, branches: Sequence[Branch], x: Array | None = None, sigma: Array | None = None
    ) -> tuple[Array, ...]:
        del sigma
        self.counts.update(branch.network for branch in branches)
        like = self.x if x is None else x
        logits = jnp.zeros((like.shape[0], 2), like.dtype)
        return tuple(logits if branch.network == CLASSIFIER else like for branch in branches)


def evaluations(
    rule: Rule, x: Float[Array, " batch *shape"] | jax.ShapeDtypeStruct
) -> dict[str, int]:
    """Count the network evaluations of one guided prediction, by network name.

    Args:
        rule: a rule as it holds at one noise level (``rule.at(sigma)``).
        x: an array, or the shape and type of one, like the samples'.
    """
    counted: Counter[str] = Counter()

    def trace(rule, x):
        evaluate = Counting(x)
        keys = jax.random.split(root_key(0), x.shape[0])
        result = rule.apply(evaluate, x, jnp.ones((), x.dtype), rule.init(x), keys)
        counted.update(evaluate.counts)
        return result

    jax.eval_shape(trace, rule, x)
    return dict(counted)


@takes_parts("guidance")
def cost(
    rule: Rule, sigmas: Sequence[float] | np.ndarray, shape: tuple[int, ...] = SHAPE
) -> list[dict[str, int]]:
    """Count the network evaluations of one guided prediction at each noise level.

    A rule that may skip an evaluation while running (`skip_aligned`) is counted as if it did not.
    Backward passes through a network are counted beside its evaluations, ``main+grad`` (about
    twice the work of one), and rewards under ``reward`` and ``reward+grad``.

    Args:
        rule: any rule.
        sigmas: noise levels at which steps start, in their order; not the final 0, where nothing
            is evaluated.
        shape: one sample's shape; matters for rules that cut windows alone.

    Returns:
        For each sigma, evaluations by network name, ``{"main": 2}`` for CFG.
    """
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    rule = along(rule, sigmas)
    counted: dict[Any, dict[str, int]] = {}
    result = []
    for sigma in sigmas:
        holds = rule.at(float(sigma))
        kind = jax.tree.structure(holds)
        if kind not in counted:
            counted[kind] = evaluations(holds, x)
        result.append(dict(counted[kind]))
    return result


def counts_text(evaluations: Mapping[str, int]) -> str:
    """Return evaluations by network as text, ``23 main + 23 guide``: the main network first.

    Backward passes are said behind those of their network: ``23 main + 23 main backward``.
    """
    ordered = sorted(evaluations.items(), key=lambda item: (not item[0].startswith(MAIN), item[0]))
    return " + ".join(f"{count} {name.replace('+grad', ' backward')}" for name, count in ordered)
