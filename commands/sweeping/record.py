"""What a sweep writes of its trials: their parameters, their titles, a table, and the best."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from ...runtime.identity import plain
from ...runtime.study import Finished

RECORD, TABLE = "sweep.json", "sweep.csv"


def table(record: Mapping[str, Any]) -> str:
    """Return a sweep's record as comma-separated values, a line a trial."""
    fields = record["sweep"]["fields"]
    others = ("multiply_adds", "seconds", "images", "folder", "command")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *fields, *record["metrics"], *others])
    for row in record["rows"].values():
        parameters = [row["parameters"].get(name) for name in fields]
        measured = [row[name] for name in record["metrics"]]
        writer.writerow([row["trial"], row["state"], *parameters, *measured, *map(row.get, others)])
    return text.getvalue()


def parameters_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's fields and values, sections field by field."""
    found: dict[str, Any] = {}
    for name, value in trial.items():
        if isinstance(value, Mapping):
            found |= parameters_of({f"{name}.{key}": one for key, one in value.items()})
        else:
            # What JSON has no word for, such as infinity, is told in Python's.
            number = isinstance(value, float) and not math.isfinite(value)
            found[name] = str(value) if number else plain(value)
    return found


def title_of(trial: Mapping[str, Any]) -> str:
    """Return a trial's title: its fields by the shortest names that tell them apart."""
    parameters = parameters_of(trial)
    words = []
    for name, value in parameters.items():
        parts = name.split(".")
        endings = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        short = next(
            one
            for one in endings
            if sum(f".{other}".endswith(f".{one}") for other in parameters) == 1
        )
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        # The name of a part says what it is.
        words.append(shown if short == "name" else f"{short} {shown}")
    return ", ".join(words)


def best_of(finished: Mapping[int, Finished], direction: str) -> int | None:
    values = {place: one.value for place, one in finished.items() if one.value is not None}
    choose = min if direction == "minimize" else max
    return choose(values, key=values.__getitem__) if values else None
