"""Rules on ready-made predictions: no sampler, no network."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..core.calls import takes_parts
from ..core.constructors import name_of
from ..core.errors import WrongType
from ..core.part_types import mismatch
from ..core.random import keys_per_sample
from ..core.text import shown
from .protocol import CLASSIFIER, Branch, Guided, Rule


@takes_parts("guidance")
def combine(
    rule: Rule,
    predictions: Mapping[str, Any],
    *,
    x: Any = None,
    sigma: Any = None,
    end: Any = None,
    state: Any = None,
    key: Any = None,
    condition: Any = None,
) -> tuple[Guided, Any]:
    """Apply a rule to predictions that another sampler has made.

    Args:
        rule: any rule that needs no forward pass beyond those given.
        predictions: x0 estimates ``[batch, ...]`` by branch name: ``given``, ``null``, ``guide``,
            ...; and under ``classifier`` a callable ``(x, sigma) -> logits``, for rules that ask
            one.
        x: the noisy sample they were made at; only rules of noise, score or velocity space
            (`tcfg`, `cfg_zero_star`) and classifiers look at it. 0 when not given.
        sigma: its noise level, 1 when not given; needed by rules that hold in an interval, where
            it must be a plain number.
        end: the noise level that the sampler's step leads to, for rules that ask, such
            as `ddrm`.
        state: what the last call returned; None before the first step.
        key: one random key, or one per sample, for rules that draw.
        condition: labels ``[batch]``, for rules that look at them (those with a classifier).

    Returns:
        The guided prediction and the state for the next step.

    Raises:
        ValueError: a branch the rule needs is missing, shapes differ, arrays are not
            floating-point, sigma is missing or no noise level.
        TypeError: something that is no rule.
    """
    if not isinstance(predictions, Mapping):
        raise WrongType(
            f"guidance.combine: predictions must be a dictionary of arrays by branch, "
            f"{{'given': ..., 'null': ...}}, got {shown(predictions)}"
        )
    classifier = predictions.get(CLASSIFIER)
    arrays = {n: jnp.asarray(value) for n, value in predictions.items() if n != CLASSIFIER}
    given = arrays if x is None else arrays | {"x": jnp.asarray(x)}
    for name, value in given.items():
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"guidance.combine: {name} is an array of {value.dtype}, whose differences wrap or "
                f"are cut off: give floating-point arrays"
            )
    shapes = {name: value.shape for name, value in given.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"guidance.combine: predictions must have one shape, got {shapes}")
    if not arrays:
        raise ValueError("guidance.combine: no predictions given")
    first = next(iter(arrays.values()))
    state = rule.init(first) if state is None else state
    holds = _rule_at(rule, sigma)
    # At x = 0, sigma = 1, the spaces that rules are defined in differ by a factor alone.
    x = jnp.zeros_like(first) if x is None else x
    level = jnp.asarray(1.0 if sigma is None else sigma, first.dtype)
    if key is not None:
        key = keys_per_sample("guidance.combine", key, first.shape[0])
    until = None if end is None else jnp.asarray(end, first.dtype)
    evaluate = _Given(name_of(rule), arrays, classifier, condition, x, level, until)
    return holds.apply(evaluate, x, level, state, key)


class _Given:
    """An ``evaluate`` that knows the predictions of one point and makes none."""

    def __init__(self, owner: str, arrays, classifier, condition, x, sigma, end):
        self.owner, self.arrays, self.classifier = owner, arrays, classifier
        self.condition, self.x, self.sigma, self.end = condition, x, sigma, end

    def __call__(
        self, branches: Sequence[Branch], x: Array | None = None, sigma: Array | None = None
    ) -> tuple[Array, ...]:
        return tuple(self._one(branch, x, sigma) for branch in branches)

    def _one(self, branch: Branch, x, sigma) -> Array:
        if branch.network == CLASSIFIER:
            if self.classifier is None:
                raise ValueError(
                    f"guidance.combine: {self.owner} needs a classifier: give a callable "
                    f"(x, sigma) -> logits under the name {CLASSIFIER!r}"
                )
            where = self.x if x is None else x
            return self.classifier(where, self.sigma if sigma is None else sigma)
        if x is not None or sigma is not None:
            raise ValueError(
                f"guidance.combine: {self.owner} evaluates the network at other points than the "
                f"one whose predictions were given; run it in samplers.sample"
            )
        if branch.name not in self.arrays:
            raise ValueError(
                f"guidance.combine: {self.owner} needs the prediction {branch.name!r}, got "
                f"{sorted(self.arrays)}"
            )
        return self.arrays[branch.name]


def _rule_at(rule: Rule, sigma) -> Rule:
    known = sigma is not None and not isinstance(sigma, jax.core.Tracer)
    if known and (mismatch(sigma, float) or not sigma >= 0):
        raise ValueError(
            f"guidance.combine: sigma must be one noise level, 0 or more, got {shown(sigma)}"
        )
    # A probe that compares false with every bound: where it yields the rule itself, no interval
    # is involved and sigma need not be known.
    if sigma is None or isinstance(sigma, jax.core.Tracer):
        if rule.at(float("nan")) is not rule:
            raise ValueError(
                "guidance.combine: this rule depends on the noise level; pass sigma as a plain "
                "number (which branch holds is decided while tracing)"
            )
        return rule
    return rule.at(float(sigma))
