"""What an evaluation or a sweep wrote of its rows, read as something that anybody may have written.

Values are taken where they are of the type that is expected and left out where they are not: a row
of an older release, or of a trial that still runs, has fewer of them.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.files import read_json

# Files that hold a record, by what wrote them.
RECORDS = {"sweep.json": "sweep", "evidence.json": "evaluation"}
# What a row holds beside the numbers that were measured of it.
KNOWN = (
    *("title", "guidance", "rule", "sampling", "made_of", "parameters", "evaluations", "state"),
    *("multiply_adds", "seconds", "command", "folder", "trial", "images", "error"),
)
# Of a row that is compared with others; one that says nothing has ended.
ENDED = ("", "complete", "completed", "done", "finished")
SCALE = "scale"
# A rule that is off: its scale is 1, by the convention of all rules.
OFF, OFF_SCALE = "unguided", 1.0
Value = str | float | int | bool | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: an evaluated setting, or a trial of a sweep.

    Attributes:
        name: its key in the record; its images lie in a folder of that name unless `folder` says.
        title: what it is called.
        parameters: settings by dotted name, those of nested parts too.
        searched: names of those that a sweep chose; empty for an evaluation.
        numbers: what was measured, by metric; only finite numbers.
        guidance: the rule's settings as they are nested; empty where the record keeps none.
        evaluations: of the networks for an image, by network.
        multiply_adds: for an image; None where unknown.
        seconds: of all its images; None where unknown.
        command: makes it again; empty where the record keeps none.
        folder: of its images, below the record's; None where they were not kept.
        state: of its trial; empty for a row that has none.
        error: why it failed; empty where it did not.
    """

    name: str
    title: str
    parameters: Mapping[str, Value]
    searched: Sequence[str]
    numbers: Mapping[str, float]
    guidance: Mapping[str, Any]
    evaluations: Mapping[str, int]
    multiply_adds: float | None
    seconds: float | None
    command: str
    folder: str | None
    state: str
    error: str

    @property
    def ended(self) -> bool:
        """Whether it was measured in full, so that it compares with others."""
        return self.state.lower() in ENDED

    @functools.cached_property
    def scale(self) -> str | None:
        """The name of the parameter that is its guidance scale: the outermost of that name."""
        named = [key for key in self.parameters if key.rpartition(".")[2] == SCALE]
        return min(named, key=lambda key: key.count("."), default=None)

    @property
    def off(self) -> bool:
        """Whether it has no guidance."""
        return self.parameters.get("guidance.name") == OFF

    @functools.cached_property
    def settings(self) -> Mapping[str, Value]:
        """Its parameters, the guidance scale under the one name ``scale``."""
        found = {key: value for key, value in self.parameters.items() if key != self.scale}
        if self.scale is not None:
            found[SCALE] = self.parameters[self.scale]
        elif self.off:
            found[SCALE] = OFF_SCALE
        return found


@dataclasses.dataclass(frozen=True)
class Record:
    """What was measured, row by row.

    Attributes:
        name: of the experiment.
        kind: what wrote it, evaluation or sweep.
        about: what else the record says, by its names: the date, the device, the real set.
        metrics: names of what was measured, in the order of columns.
        rows: in their order.
        claims: as `claims.judge` judged them.
    """

    name: str
    kind: str
    about: Mapping[str, Any]
    metrics: Sequence[str]
    rows: Sequence[Row]
    claims: Sequence[Mapping[str, Any]]

    @property
    def measured(self) -> list[str]:
        """The metrics of which some row has a number."""
        return [one for one in self.metrics if any(one in row.numbers for row in self.rows)]


def read_record(folder: Path) -> Record:
    """Return the record in the work folder of a sweep or an evaluation.

    Raises:
        UserError: there is none, or it holds no rows.
    """
    path = next((folder / name for name in RECORDS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(
            f"{folder} holds neither {' nor '.join(RECORDS)}: --mode=report reads the --workdir of "
            f"a sweep, or of an evaluation (--mode=evaluate) that has ended"
        )
    remedy = "restore it from a copy, or run what wrote it again"
    found = read_json(path, remedy)
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise UserError(
            f"{path} has no rows by their names, as a sweep or an evaluation of this release "
            f"writes them: {remedy}"
        )
    if not rows:
        raise UserError(f"{path} has no rows yet: write the report when a first one has ended")
    read = [_row(str(name), row) for name, row in rows.items()]
    claims = found.get("claims")
    return Record(
        _text(found.get("name")) or folder.name,
        RECORDS[path.name],
        {key: value for key, value in found.items() if key not in ("rows", "claims", "metrics")},
        _metrics(found.get("metrics"), read),
        read,
        [one for one in claims if isinstance(one, dict)] if isinstance(claims, list) else [],
    )


def flattened(tree: Mapping[str, Any], place: str = "") -> dict[str, Value]:
    """Return the values of nested settings by dotted name; lists as text."""
    found: dict[str, Value] = {}
    for key, value in tree.items():
        name = f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping):
            found |= flattened(value, name)
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            found |= flattened(dict(enumerate(value)), name)
        else:
            plain = value is None or isinstance(value, (str, bool, int, float))
            found[name] = value if plain else ", ".join(map(str, value))
    return found


def _row(name: str, row: Mapping[str, Any]) -> Row:
    guidance = _mapping(row.get("guidance"))
    searched = flattened(_mapping(row.get("parameters")))
    told = flattened({"guidance": guidance, "sampling": _mapping(row.get("sampling"))})
    counts = _mapping(row.get("evaluations"))
    measured = {key: _number(value) for key, value in row.items() if key not in KNOWN}
    folder = row.get("folder", name)
    return Row(
        name,
        _text(row.get("title")) or name,
        told | searched,
        list(searched),
        {key: value for key, value in measured.items() if value is not None},
        guidance,
        {str(key): int(value) for key, value in counts.items() if _number(value) is not None},
        _number(row.get("multiply_adds")),
        _number(row.get("seconds")),
        _text(row.get("command")),
        folder if isinstance(folder, str) else None,
        _text(row.get("state")),
        _text(row.get("error")),
    )


def _metrics(named: Any, rows: Sequence[Row]) -> list[str]:
    """Return the names that the record gives, then others that rows have numbers of."""
    listed = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    return list(dict.fromkeys([*listed, *(key for row in rows for key in row.numbers)]))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None
