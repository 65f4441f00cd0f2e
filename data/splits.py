"""Parts of a data set by name: "train", "train[:50%]", "train[10:20]", as TFDS writes them."""

import re
from collections.abc import Mapping

from ..core.errors import UserError

BOUND = r"\s*(-?\d+%?)?\s*"
PART = re.compile(rf"(\w+)(?:\[{BOUND}:{BOUND}\])?")


def chosen_rows(split: str, sizes: Mapping[str, int], name: str) -> tuple[str, range]:
    """Return the named split and the rows of it that an expression chooses.

    Bounds count examples or, with ``%``, hundredths, rounded to the nearest example as TFDS rounds
    them, so that ``train[:90%]`` and ``train[90%:]`` share none and leave none out; negative ones
    count from the end.

    Args:
        split: the expression.
        sizes: number of examples of each split that there is.
        name: of the data set, for messages.

    Raises:
        UserError: no such split, not such an expression, bounds beyond the split, or no examples.
    """
    found = PART.fullmatch(split.strip()) if isinstance(split, str) else None
    if not found or found[1] not in sizes:
        first = next(iter(sizes))
        raise UserError(
            f"{name} has no split {split!r}: choose one of {', '.join(sizes)}, or a part such as "
            f"{first}[:90%] or {first}[100:200]"
        )
    base, low, high = found.groups()
    count = sizes[base]
    begin, end = _place(low, 0, count), _place(high, count, count)
    if not (0 <= begin <= count and 0 <= end <= count):
        raise UserError(f"{name} has {count} examples in {base}: {split!r} reaches beyond them")
    if begin >= end:
        raise UserError(f"{name}: {split!r} chooses none of {count} examples")
    return base, range(begin, end)


def _place(bound: str | None, otherwise: int, count: int) -> int:
    if bound is None:
        return otherwise
    number = int(bound.rstrip("%"))
    place = round(number * count / 100) if bound.endswith("%") else number
    return place + count if bound.startswith("-") else place
