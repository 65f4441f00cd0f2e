"""What the report plots, and the same as PNG files."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from ..table import HIGHER, LOWER, title_of
from .curves import SCALE, lines, numeric, pareto, short
from .records import Record

# What is plotted against what else: y, x.
TRADE_OFFS = (("precision", "recall"), ("density", "coverage"))
# Colours that colour-blind readers tell apart (Okabe & Ito), on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#6a51a3", "#6b7280")
MARKERS, DASHES = "osD^vPX*", ("-", "--", ":", "-.")
WIDTH, HEIGHT, DPI = 8.0, 5.0, 110
# How many times the smallest the largest distance is where logarithms are drawn.
WIDE = 10
# As many lines as a key can name.
NAMED = 24


class Chosen(NamedTuple):
    """What plots show to begin with; None where there is no such thing.

    Attributes:
        along: the setting that lines run along.
        quality: the metric of the plots' height.
        trade_off: two metrics of which one is had at the price of the other: y, x.
    """

    along: str | None
    quality: str | None
    trade_off: tuple[str, str] | None


def chosen(record: Record) -> Chosen:
    """Return what plots show to begin with: a distance, along the scale where that varies."""
    there = record.measured
    ranked = sorted(there, key=lambda one: (one not in LOWER, one not in HIGHER))
    pairs = [pair for pair in TRADE_OFFS if {*pair} <= {*there}]
    return Chosen(
        next(iter(numeric(record)), None), next(iter(ranked), None), next(iter(pairs), None)
    )


def best(record: Record, metric: str) -> list[int]:
    """Return the rows that no other beats in cost and in a metric, cheapest first.

    None of a metric that has no better.
    """
    if metric not in (*LOWER, *HIGHER):
        return []
    sign = 1 if metric in LOWER else -1
    rows = [row if row.ended else None for row in record.rows]
    values = [None if row is None else row.numbers.get(metric) for row in rows]
    return pareto(
        [None if row is None else row.multiply_adds for row in rows],
        [None if value is None else sign * value for value in values],
    )


def values_of(record: Record, metric: str) -> list[float]:
    """Return the numbers of all rows that have ended."""
    return [row.numbers[metric] for row in record.rows if row.ended and metric in row.numbers]


def wide(record: Record, metric: str) -> bool:
    """Say whether distances are so many times others that logarithms alone tell those apart."""
    values = values_of(record, metric)
    return metric in LOWER and bool(values) and 0 < WIDE * min(values) < max(values)


def draw(record: Record) -> dict[str, bytes]:
    """Return PNG files of the plots by name, those that the record has numbers for."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    along, quality, trade_off = chosen(record)
    found = {}

    def plot(name, x, y, points, ringed: Sequence[int] = ()):
        figure = Figure((WIDTH, HEIGHT), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for number, (label, joined, places) in enumerate(points):
            # Once all colours are used up, they come again with other marks and dashes.
            turn = number // len(COLOURS)
            style = DASHES[turn % len(DASHES)] if joined else "none"
            axes.plot(
                *([at[k] for at in places] for k in (0, 1)),
                label=_plain(label) if number < NAMED else "_",
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[(number + 3 * turn) % len(MARKERS)],
                linestyle=style,
                linewidth=1.5,
            )
        if ringed:
            rings = [(record.rows[i].multiply_adds / 1e9, _of(record, i, quality)) for i in ringed]
            axes.plot(
                *zip(*rings, strict=True),
                drawstyle="steps-post",
                color="#444",
                linestyle=":",
                marker="o",
                markersize=13,
                markerfacecolor="none",
                label="Pareto set",
            )
        axes.set_xlabel(_plain(x))
        axes.set_ylabel(_plain(y))
        axes.grid(alpha=0.3)
        if y == title_of(quality) and wide(record, quality):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        if points:
            axes.legend(fontsize=7, frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
        found[name] = file.getvalue()

    if quality is None:
        return found
    every = lines(record, along or SCALE)
    if along is not None:
        points = [
            (line.label, line.joined, _points(record, line.rows, line.values, quality))
            for line in every
            if line.values
        ]
        plot("quality", short(along), title_of(quality), points)
    if trade_off is not None:
        y, x = trade_off
        points = [
            (line.label, line.joined, _points(record, line.rows, _all(record, line.rows, x), y))
            for line in every
        ]
        plot("trade_off", title_of(x), title_of(y), points)
    costs = [row.multiply_adds and row.multiply_adds / 1e9 for row in record.rows]
    if any(costs):
        points = [
            (line.label, False, _points(record, line.rows, [costs[i] for i in line.rows], quality))
            for line in every
        ]
        title = "G multiply-adds an image"
        plot("cost", title, title_of(quality), points, best(record, quality))
    return found


def _of(record: Record, place: int, metric: str) -> float | None:
    return record.rows[place].numbers.get(metric)


def _all(record: Record, places: Sequence[int], metric: str) -> list[float | None]:
    return [_of(record, place, metric) for place in places]


def _points(record, places, at, metric) -> list[tuple[float, float]]:
    pairs = zip(at, _all(record, places, metric), strict=True)
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _plain(text: str) -> str:
    """Return text in which matplotlib finds no formula, nor a label to leave out."""
    return text.replace("$", r"\$").lstrip("_") or " "
