"""Rules on ready-made predictions: no sampler, no network."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .protocol import Branch, Guided, Rule, keys_per_sample


def combine(
    rule: Rule,
    predictions: Mapping[str, Float[Array, " batch *shape"]],
    *,
    x: Float[Array, " batch *shape"] | None = None,
    sigma: float | Float[Array, ""] | None = None,
    state: Any = None,
    key: Key[Array, ""] | Key[Array, " batch"] | None = None,
) -> tuple[Guided, Any]:
    """Apply a rule to predictions that another sampler has made.

    Args:
        rule: any rule that needs no forward pass beyond those given.
        predictions: x0 estimates by branch name: ``given``, ``null``, ``guide``, ...
        x: the noisy sample they were made at; only rules of noise, score or velocity space
            (`tcfg`, `cfg_zero_star`) look at it. 0 when not given.
        sigma: its noise level, 1 when not given; needed by rules that hold in an interval, where
            it must be a plain number.
        state: what the last call returned; None before the first step.
        key: one random key, or one per sample, for rules that draw.

    Returns:
        The guided prediction and the state for the next step.

    Raises:
        ValueError: a branch the rule needs is missing, shapes differ, or sigma is missing.
    """
    arrays = {name: jnp.asarray(value) for name, value in predictions.items()}
    shapes = {name: value.shape for name, value in arrays.items()}
    if x is not None:
        shapes["x"] = jnp.shape(x)
    if len(set(shapes.values())) > 1:
        raise ValueError(f"guidance.combine: predictions must have one shape, got {shapes}")
    if not arrays:
        raise ValueError("guidance.combine: no predictions given")
    first = next(iter(arrays.values()))

    def evaluate(branches: Sequence[Branch]) -> tuple[Array, ...]:
        missing = [branch.name for branch in branches if branch.name not in arrays]
        if missing:
            raise ValueError(
                f"guidance.combine: {type(rule).__name__} needs the prediction {missing[0]!r}, "
                f"got {sorted(arrays)}"
            )
        return tuple(arrays[branch.name] for branch in branches)

    state = rule.init(first) if state is None else state
    holds = _rule_at(rule, sigma)
    # At x = 0, sigma = 1, the spaces that rules are defined in differ by a factor alone.
    x = jnp.zeros_like(first) if x is None else x
    level = jnp.asarray(1.0 if sigma is None else sigma, first.dtype)
    if key is not None:
        key = keys_per_sample("guidance.combine", key, first.shape[0])
    return holds.apply(evaluate, x, level, state, key)


def _rule_at(rule: Rule, sigma) -> Rule:
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
