"""Numbers of a section, each checked by its owner against the range it declares."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from .errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field takes, finite ones.

    Attributes:
        low: the lowest.
        high: the highest; may be infinite.
        open_low, open_high: the end itself is no such number.
        whole: whole numbers alone.
        hint: what some of them stand for, ``"0 is off"``.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    hint: str = ""

    def __contains__(self, value: object) -> bool:
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool) or not math.isfinite(value):
            return False
        number: Any = value
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return bool(above and below)

    def __str__(self) -> str:
        """Say in words which numbers these are."""
        kind = "a whole number" if self.whole else "a finite number"
        ends = []
        if self.low > -math.inf:
            ends.append(f"above {self.low:g}" if self.open_low else f"from {self.low:g}")
        if self.high < math.inf:
            ends.append(f"below {self.high:g}" if self.open_high else f"up to {self.high:g}")
        hint = f" ({self.hint})" if self.hint else ""
        return " ".join([kind, *ends]) + hint


def positive(hint: str = "") -> Range:
    """Return the finite numbers above 0."""
    return Range(0, open_low=True, hint=hint)


def at_least_0(hint: str = "") -> Range:
    """Return the finite numbers from 0."""
    return Range(0, hint=hint)


def count(low: int = 1, hint: str = "") -> Range:
    """Return the whole numbers from ``low``."""
    return Range(low, whole=True, hint=hint)


def share(*, open_low: bool = False, open_high: bool = False, hint: str = "") -> Range:
    """Return the numbers from 0 to 1."""
    return Range(0, 1, open_low, open_high, hint=hint)


def require_ranges(place: str, values: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Refuse numbers out of range.

    Args:
        place: the section, for messages; empty for none.
        values: of its fields, by name.
        ranges: of some of them.

    Raises:
        UserError: the first that is out of its range, by name.
    """
    for name, allowed in ranges.items():
        if name in values and values[name] not in allowed:
            where = f"{place}.{name}" if place else name
            raise UserError(f"{where} is {values[name]!r}: give {allowed}")


def require_choice(place: str, value: Any, choices: Any) -> None:
    """Refuse a word that is not one of several.

    Raises:
        UserError: naming them.
    """
    if value not in tuple(choices):
        raise UserError(f"{place} {value!r} is not one of {', '.join(map(str, choices))}")
