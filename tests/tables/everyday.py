"""How far a table is gone through: `make test` takes some rows, `make test-longer` all others."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

ParameterSet = type(pytest.param())


def rows(every: Iterable[Any], everyday: Callable[..., bool]) -> list:
    """Return a table's rows for `pytest.mark.parametrize`, those of no everyday run marked longer.

    Args:
        every: names, or tuples of arguments.
        everyday: of a row's arguments: whether each run takes it. Every property is checked each
            day on some row of every family; what is left are other variants of one, and the
            pairs of a product.
    """
    return [_row(row, everyday(*_arguments(row))) for row in every]


# One rule of every way to ask networks, to remember, to draw, and to wrap another rule.
WAYS = {"unguided", "cfg", "autoguidance", "icg", "tsg", "pag", "slg", "swg", "perp_neg", "apg"}
WAYS |= {"between(cfg)", "reg", "cads", "higs", "reuse", "fkc", "cfgpp", "classifier"}


def one_of_each_way(name: str) -> bool:
    """Return whether every run takes this row of the rule table."""
    return name in WAYS


def few(count: int, every: Iterable[Any]) -> list:
    """Return a table's rows for `pytest.mark.parametrize`, those after the first marked longer."""
    return [_row(row, n < count) for n, row in enumerate(every)]


def _arguments(row):
    return (
        row.values if isinstance(row, ParameterSet) else row if isinstance(row, tuple) else (row,)
    )


def _row(row, everyday):
    marks = () if everyday else (pytest.mark.longer,)
    if isinstance(row, ParameterSet):
        return pytest.param(*row.values, marks=(*row.marks, *marks), id=row.id)
    return pytest.param(*_arguments(row), marks=marks)
