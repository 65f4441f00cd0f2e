"""What a rule is put together from, and which rule holds at which noise levels."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

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
    low, high = span
    # Ends belong to the span below them; the last span has none.
    return rule.at(high if high < np.inf else 2 * low + 1)
