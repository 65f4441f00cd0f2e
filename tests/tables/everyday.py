"""How far a table is gone through: `make test` takes some rows, `make test-longer` all others."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def rows(every: Iterable[Any], everyday: Callable[..., bool]) -> list:
    """Return a table's rows for `pytest.mark.parametrize`, those of no everyday run marked longer.

    Args:
        every: names, or tuples of arguments.
        everyday: of a row's arguments: whether each run takes it. Every property is checked each
            day on some row of every family; what is left are other variants of one, and the
            pairs of a product.
    """
    found = []
    for row in every:
        arguments = row if isinstance(row, tuple) else (row,)
        marks = () if everyday(*arguments) else pytest.mark.longer
        found.append(pytest.param(*arguments, marks=marks))
    return found


def first_of_its_kind(name: str) -> bool:
    """Return whether a row of the rule table is no variant of an earlier one.

    Variants are named after the rule with what differs behind a comma or around it in brackets.
    """
    return "," not in name and ("(" not in name or name == "between(cfg)")
