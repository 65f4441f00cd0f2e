"""The report's files: the page, its table as CSV, its plots as PNG."""

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

from ...core.files import write_bytes, write_text
from ..table import LOWER
from .curves import varying
from .page import LARGEST, MOST_ROWS, render
from .pictures import Read, make_sprites
from .plots import chosen, draw
from .records import Record, Row

PAGE, TABLE = "report.html", "report.csv"
# Of the page's bytes, what its pictures leave to how they are written down.
SHARE = 0.74
# What a spreadsheet takes for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_documents(
    record: Record,
    folder: Path,
    images: Mapping[str, int],
    read: Read,
    absent: Mapping[str, str],
    counts: Mapping[str, str],
) -> list[Path]:
    """Write ``report.html``, ``report.csv`` and the plots as PNG; return their paths.

    Args:
        record: what was measured.
        folder: gets the files.
        images: how many each row has, by name.
        read: reads them.
        absent: why other rows have none.
        counts: evaluations of each row in words, by name.

    Raises:
        UserError: plotly is not installed, images that cannot be read, or the disk refuses.
    """
    order = _by_quality(record)
    shown = {row.name for row in order[:MOST_ROWS]}
    part = dataclasses.replace(record, rows=[row for row in record.rows if row.name in shown])
    notes = []
    if len(part.rows) < len(record.rows):
        notes.append(
            f"{len(part.rows):,} of {len(record.rows):,} rows are shown, those of the best "
            f"numbers; {TABLE} beside this file has all."
        )
    bare = render(part, make_sprites({}, read, 0, {}), counts, notes)
    budget = int(SHARE * (LARGEST - len(bare.encode())))
    wanted = {row.name: images[row.name] for row in order if row.name in shown & {*images}}
    gone = {name: why for name, why in absent.items() if name in shown}
    sprites = make_sprites(wanted, read, budget, gone)
    drawn = {f"report_{name}.png": data for name, data in draw(part).items()}
    write_text(folder / TABLE, as_csv(record, counts))
    for name, data in drawn.items():
        write_bytes(folder / name, data)
    write_text(folder / PAGE, render(part, sprites, counts, notes))
    return [folder / name for name in (PAGE, TABLE, *drawn)]


def as_csv(record: Record, counts: Mapping[str, str]) -> str:
    """Return the table of all rows: text that looks like a formula has a ``'`` before it."""
    names = varying(record)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ends = ("evaluations", "multiply_adds", "seconds", "state", "command")
    writer.writerow(["row", "title", *map(_safe, names), *map(_safe, record.metrics), *ends])
    for row in record.rows:
        told = row.settings
        found = [told.get(name) for name in names]
        found += [row.numbers.get(metric) for metric in record.metrics]
        found += [counts.get(row.name, ""), row.multiply_adds, row.seconds, row.state, row.command]
        writer.writerow(
            ["" if one is None else _safe(one) for one in [row.name, row.title, *found]]
        )
    return file.getvalue()


def _safe(value):
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _by_quality(record: Record) -> list[Row]:
    quality = chosen(record).quality
    sign = 1 if quality in LOWER else -1

    def rank(row: Row) -> tuple[bool, bool, float]:
        value = None if quality is None else row.numbers.get(quality)
        return (not row.ended, value is None, 0.0 if value is None else sign * value)

    return sorted(record.rows, key=rank)
