"""What a rule is put together from, and which rule holds at which noise levels and steps."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..core.calls import takes_parts
from ..core.pytrees import replaced
from .protocol import Rule


def parts_of(made: Any) -> Iterator[Any]:
    """Yield a rule and everything inside it that is a part too, outermost first."""
    if isinstance(made, (tuple, list)):
        for one in made:
            yield from parts_of(one)
    elif dataclasses.is_dataclass(made) and not isinstance(made, type):
        yield made
        for field in dataclasses.fields(made):
            yield from parts_of(getattr(made, field.name))


def spans(rule: Any) -> list[tuple[float, float]]:
    """Return the spans ``(low, high]`` of noise levels within which one rule holds, from 0 up.

    Noise levels at which another rule may hold are static numbers of a rule's parts.
    """
    ends = sorted(
        {
            float(value)
            for part in parts_of(rule)
            for field in dataclasses.fields(part)
            if field.metadata.get("static", False)
            and isinstance(value := getattr(part, field.name), float)
            and 0 < value < np.inf
        }
    )
    return list(zip([0.0, *ends], [*ends, np.inf], strict=True))


def held_in(rule: Rule, span: tuple[float, float]) -> Rule:
    """Return the rule that holds within a span."""
    return rule.at(levels_in(span)[1])


def levels_in(span: tuple[float, float]) -> tuple[float, float]:
    """Return two noise levels within a span, the higher one first."""
    low, high = span
    # Ends belong to the span below them; the last span has none.
    return (high, (low + high) / 2) if high < np.inf else (2 * low + 2, 2 * low + 1)


@takes_parts("guidance")
def along(rule: Rule, sigmas: Sequence[float] | np.ndarray) -> Rule:
    """Return a rule as it runs along one schedule: what it does by the step is decided.

    A sampler of one's own calls it before its first step, and then ``rule.at(sigma)`` at each;
    `samplers.sample` and `cost` do so themselves. Nearly all rules come back as they are. A part
    that goes by steps, as `reuse` does, and a rule that asks what is inside it at some steps
    alone, as `between` does, have a method ``along(sigmas)`` of their own, which is given the
    starting noise levels of the steps at which they are asked.

    Args:
        rule: any rule; the result has its state.
        sigmas: the noise levels at which steps start, in the order in which they are taken,
            without the final 0.
    """
    return _along(rule, tuple(map(float, sigmas)))


def _along(part: Any, sigmas: tuple[float, ...]) -> Any:
    if isinstance(part, (tuple, list)):
        each = [_along(one, sigmas) for one in part]
        changed = any(new is not old for new, old in zip(each, part, strict=True))
        return type(part)(each) if changed else part
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    if hasattr(part, "along"):
        return part.along(sigmas)
    names = [field.name for field in dataclasses.fields(part)]
    changes = {
        name: new
        for name in names
        if (new := _along(getattr(part, name), sigmas)) is not getattr(part, name)
    }
    return replaced(part, **changes) if changes else part
