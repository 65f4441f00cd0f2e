"""What a rule needs to do anything: a condition, a network that knows the null one, noise levels.

Found by asking the rule for its branches, on shapes alone: rules from outside answer as well.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.calls import takes_parts
from ..core.random import root_key
from ..core.text import written
from .evaluations import SHAPE
from .protocol import CLASSIFIER, NULL, Branch, Rule
from .structure import held_in, parts_of, spans
from .wrappers.interval import Between


class Asked:
    """An ``evaluate`` that remembers which questions it was asked.

    Attributes:
        condition: labels 0, or None.
        branches: all that were asked for.
        questions: what differs between them: the network, the condition, the modes and the point.
        refused: whether the rule refused what it found.
    """

    def __init__(self, x: Array, condition: Array | None):
        self.x, self.condition, self.refused = x, condition, False
        self.end = jnp.zeros((), x.dtype)
        self.branches: list[Branch] = []
        self.questions: set[tuple] = set()

    def __call__(
        self, branches: Sequence[Branch], x: Array | None = None, sigma: Array | None = None
    ) -> tuple[Array, ...]:
        elsewhere = x is not None, sigma is not None
        for branch in branches:
            self.branches.append(branch)
            condition = branch.condition
            each = condition.values() if isinstance(condition, Mapping) else (condition,)
            if self.condition is None and all(isinstance(one, str) for one in each):
                condition = NULL  # what is given is nothing
            known = condition if isinstance(condition, str) else id(condition)
            self.questions.add((branch.network, known, tuple(map(id, branch.modes)), elsewhere))
        like = self.x if x is None else x
        logits = jnp.zeros((like.shape[0], 2), like.dtype)
        return tuple(logits if branch.network == CLASSIFIER else like for branch in branches)


@takes_parts("guidance")
def needs_null(rule: Rule, shape: tuple[int, ...] = SHAPE) -> frozenset[str]:
    """Return the names of the networks that a rule asks for the null condition's prediction.

    Args:
        rule: any rule.
        shape: one sample's shape; matters for rules that cut windows alone.
    """
    asked: set[str] = set()
    for span in spans(rule):
        for branch in _asked(held_in(rule, span), shape, labels=True).branches:
            several = isinstance(branch.condition, Mapping)
            each = branch.condition.values() if several else (branch.condition,)
            if any(isinstance(one, str) and one == NULL for one in each):
                asked.add(branch.network)
    return frozenset(asked)


@takes_parts("guidance")
def needs_condition(rule: Rule, shape: tuple[int, ...] = SHAPE) -> tuple[str, ...]:
    """Return the parts of a rule that push nothing where no condition is given, as their calls.

    Without a condition `cfg` has nothing to drop: both its predictions are the null one's. Rules
    that ask a classifier need the class to guide to.

    Args:
        rule: any rule.
        shape: one sample's shape; matters for rules that cut windows alone.
    """
    found = [part for part in parts_of(rule) if _is_innermost(part) and _idle(part, shape)]
    return tuple(dict.fromkeys(map(written, found)))


@takes_parts("guidance")
def idle_parts(rule: Rule, sigmas: Sequence[float] | np.ndarray) -> tuple[str, ...]:
    """Return the parts of a rule that hold at no step of a schedule, as their calls.

    Looks at parts that say where they hold by a method ``holds_at(sigma)``: `between`, `stitched`,
    `cads` and `higs` do.

    Args:
        rule: any rule.
        sigmas: the schedule. The final 0 starts no step.
    """
    starts = tuple(float(sigma) for sigma in np.asarray(sigmas, np.float64) if sigma > 0)
    return tuple(dict.fromkeys(map(written, _never_held(rule, starts))))


def _never_held(part: Any, starts: tuple[float, ...]) -> Iterator[Any]:
    if isinstance(part, (tuple, list)):
        for one in part:
            yield from _never_held(one, starts)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        held = starts
        if hasattr(part, "holds_at"):
            held = tuple(filter(part.holds_at, starts))
            if not held:
                yield part
                return
        # Outside an interval nothing inside it is asked; other wrappers leave what is inside.
        inside = held if isinstance(part, Between) else starts
        for field in dataclasses.fields(part):
            yield from _never_held(getattr(part, field.name), inside)


def _is_rule(part: Any) -> bool:
    return hasattr(part, "apply") and hasattr(part, "at")


def _is_innermost(part: Any) -> bool:
    """Return whether a part is a rule without another inside."""
    _, *inside = parts_of(part)
    return _is_rule(part) and not any(map(_is_rule, inside))


def _idle(rule: Rule, shape: tuple[int, ...]) -> bool:
    """Return whether a rule has nothing to tell apart once no condition is given."""
    given, without = (_asked(rule, shape, labels=labels) for labels in (True, False))
    if given.refused:  # for another reason, such as the shape
        return False
    return without.refused or (len(given.questions) > 1 and len(without.questions) == 1)


def _asked(rule: Rule, shape: tuple[int, ...], *, labels: bool) -> Asked:
    """Return what a rule asks for at one noise level, with labels given or without."""
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    kept: list[Asked] = []

    def trace(rule, x):
        evaluate = Asked(x, jnp.zeros(x.shape[0], jnp.int32) if labels else None)
        kept.append(evaluate)
        keys = jax.random.split(root_key(0), x.shape[0])
        return rule.apply(evaluate, x, jnp.ones((), x.dtype), rule.init(x), keys)

    try:
        jax.eval_shape(trace, rule, x)
    except ValueError:
        kept[-1].refused = True
    return kept[-1]
