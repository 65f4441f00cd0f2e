"""Rows as lines of a plot, the axes that they differ along, and the Pareto set."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .records import SCALE, Record, Row, Value

LINE, ROW = "line", "row"
# A setting that was drawn anew for most rows, and so often, makes no lines.
SCATTERED = 12
# The wrapper that a rule holds between two noise levels by, half-open as everywhere.
INTERVAL = "between"
# What stands where a row has no such parameter.
ABSENT = "not set"
# What a table calls a rule with all its settings.
CALLED = "rule and settings"
# The line of rows that have not ended.
UNMEASURED = "not ended"


@dataclasses.dataclass(frozen=True)
class Line:
    """Rows that differ along one axis alone.

    Attributes:
        label: the rule and whatever else tells this line from others.
        rows: their places in the record, in the order of `values`.
        values: where each lies along the axis; empty for rows that have no place on it.
        joined: whether they differ in nothing else, so that a line through them says something.
    """

    label: str
    rows: Sequence[int]
    values: Sequence[float]
    joined: bool


@dataclasses.dataclass(frozen=True)
class Axis:
    """Something that rows differ in.

    Attributes:
        key: its name.
        title: what a page calls it.
        values: each of its values, in order.
        places: the place of each row's value among `values`.
    """

    key: str
    title: str
    values: Sequence[Value]
    places: Sequence[int]


def shown(value: Value) -> str:
    """Return a setting as text."""
    if isinstance(value, float):
        return f"{value:g}"
    return ABSENT if value is None else str(value)


def short(key: str) -> str:
    """Return what a parameter is called where space is scarce."""
    if key == "guidance.name":
        return "rule"
    return key.removeprefix("guidance.").removeprefix("sampler.").removeprefix("sampling.")


def varying(record: Record) -> list[str]:
    """Return the names of the settings that rows differ in, the scale first."""
    found = [row.settings for row in record.rows]
    names = dict.fromkeys(key for one in found for key in one)
    differ = [key for key in names if len({_comparable(one.get(key)) for one in found}) > 1]
    return sorted(differ, key=lambda key: key != SCALE)


def columns(record: Record) -> dict[str, list[Value]]:
    """Return the settings that a table shows, by title, and each row's value.

    Those that a sweep chose; of an evaluation the rule as a call, its scale, and what else differs.
    """
    told, differ = [row.settings for row in record.rows], varying(record)
    searched = {SCALE if key == row.scale else key for row in record.rows for key in row.searched}
    if searched:
        chosen = [key for key in differ if key in searched]
        return {_title(key, differ): [one.get(key) for one in told] for key in chosen}
    plain = [key for key in differ if not key.startswith("guidance.")]
    found: dict[str, list[Value]] = {}
    if len(plain) < len(differ):
        found[CALLED] = [label_of(row, (SCALE,), ()) for row in record.rows]
    return found | {_title(key, differ): [one.get(key) for one in told] for key in plain}


def _title(key: str, others: Sequence[str]) -> str:
    """Return a parameter's short name where no other has that."""
    return short(key) if [short(one) for one in others].count(short(key)) == 1 else key


def numeric(record: Record) -> list[str]:
    """Return the names of the settings that lines may run along: numbers in at least two rows."""
    found = []
    for key in varying(record):
        values = {_place(row.settings.get(key)) for row in record.rows} - {None}
        if len(values) > 1:
            found.append(key)
    return found


def scattered(record: Record) -> list[str]:
    """Return the names of the settings that a search drew at random: hardly a value comes twice."""
    found = []
    for key in numeric(record):
        values = [_place(row.settings.get(key)) for row in record.rows]
        distinct = len({*values} - {None})
        if distinct > max(SCATTERED, len([one for one in values if one is not None]) / 2):
            found.append(key)
    return found


def lines(record: Record, along: str) -> list[Line]:
    """Return the rows as lines along one setting, one for each combination of the others.

    Settings that were drawn at random make no lines of their own: see `scattered`.

    Args:
        record: what was measured; rows that have not ended are left out.
        along: a name of `numeric`.
    """
    random = {*scattered(record)} - {along}
    differing = [key for key in varying(record) if key != along and key not in random]
    groups: dict[tuple, list[int]] = {}
    for place, row in enumerate(record.rows):
        if row.ended:
            told = row.settings
            off = row.off
            key = tuple(_comparable(told.get(name)) for name in differing)
            groups.setdefault((off, _place(told.get(along)) is None, *key), []).append(place)
    found: list[Line] = []
    labels: set[str] = set()
    for places in groups.values():
        at = {place: _place(record.rows[place].settings.get(along)) for place in places}
        known = all(value is not None for value in at.values())
        places = sorted(places, key=lambda place: at[place] if known else place)
        label = name = label_of(record.rows[places[0]], {along} | random, differing)
        number = 2
        while label in labels:
            label, number = f"{name} ({number})", number + 1
        labels.add(label)
        values = [at[place] for place in places] if known else []
        found.append(Line(label, places, values, not random))
    return found


def label_of(row: Row, left_out: Collection[str], differing: Sequence[str]) -> str:
    """Return what tells a row's line from others: its rule as a call, then other settings.

    Args:
        row: any of the line.
        left_out: the settings that rows of the line differ in.
        differing: the other settings that rows differ in.
    """
    told = row.settings
    if not row.guidance:
        return ", ".join(f"{short(key)} {shown(told.get(key))}" for key in differing) or row.title
    names = {row.scale if key == SCALE else key for key in left_out}
    others = [key for key in differing if not key.startswith("guidance.") and key != SCALE]
    parts = [_call(row.guidance, "guidance", names)]
    return ", ".join([*parts, *(f"{short(key)} {shown(told.get(key))}" for key in others)])


def axes(record: Record) -> list[Axis]:
    """Return what pictures may be laid out along: the rows, and what they differ in.

    The first two are the ones to begin with.
    """
    found, runs, random = [], numeric(record), {*scattered(record)}
    if runs:
        titles = {place: line.label for line in lines(record, runs[0]) for place in line.rows}
        named = [titles.get(place, UNMEASURED) for place in range(len(record.rows))]
        found.append(_axis(LINE, CALLED, named, list(dict.fromkeys(named))))
    for key in varying(record):
        values = [row.settings.get(key) for row in record.rows]
        found.append(_axis(key, short(key), values, sorted(values, key=_order)))
    titles = [row.title for row in record.rows]
    places = list(range(len(titles)))
    found.append(Axis(ROW, "row", titles, places))
    first = [ROW] if random or not runs else [runs[0], LINE]
    return sorted(found, key=lambda axis: (axis.key not in first, axis.key == LINE))


def _axis(key: str, title: str, values: Sequence[Value], ordered: Sequence[Value]) -> Axis:
    distinct = {_comparable(value): value for value in ordered}
    number = {one: place for place, one in enumerate(distinct)}
    places = [number[_comparable(value)] for value in values]
    return Axis(key, title, list(distinct.values()), places)


def pareto(costs: Sequence[float | None], qualities: Sequence[float | None]) -> list[int]:
    """Return the places of points that no other beats in both, cheapest first.

    A point is beaten by one that is at least as good in both and better in one.

    Args:
        costs: lower is better; None leaves the point out.
        qualities: lower is better.
    """
    points = [
        (cost, quality, place)
        for place, (cost, quality) in enumerate(zip(costs, qualities, strict=True))
        if cost is not None and quality is not None
    ]
    found, best, at = [], float("inf"), None
    for cost, quality, place in sorted(points):
        if quality < best or (quality == best and cost == at):
            found.append(place)
            best, at = quality, cost
    return found


def _call(part: Mapping[str, Any], place: str, left_out: Collection[str | None]) -> str:
    """Return settings of a part as the call that makes it."""
    arguments, named = [], str(part.get("name", ""))
    ends = {f"{place}.low", f"{place}.high"}
    if named == INTERVAL and isinstance(part.get("rule"), Mapping) and not ends & {*left_out}:
        inside = f"({shown(part.get('low', 0.0))}, {shown(part.get('high', float('inf')))}]"
        return f"{_call(part['rule'], f'{place}.rule', left_out)} in {inside}"
    for key, value in part.items():
        name = f"{place}.{key}"
        if key == "name" or name in left_out:
            continue
        if isinstance(value, Mapping):
            inner = _call(value, name, left_out)
            arguments.insert(0, inner if key == "rule" else f"{key}={inner}")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else shown(value)
            arguments.append(f"{key}={text}")
    return f"{named}({', '.join(arguments)})" if arguments else named


def _place(value: Value) -> float | None:
    """Return where a value lies along an axis of numbers."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number else None


def _comparable(value: Value) -> tuple[str, Value]:
    """Return a value as one that equals another where a person would say so."""
    place = _place(value)
    return ("number", place) if place is not None else (type(value).__name__, value)


def _order(value: Value) -> tuple:
    place = _place(value)
    if place is not None:
        return (1, place, "")
    return (0 if value is None else 2, 0.0, str(value))
