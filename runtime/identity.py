"""What results are made of, compared before a folder of them is gone on with.

Results are known by contents: digests of weights and data, numbers, names of rules. Where things
lay and what they were called is said beside it, for people, and never compared.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.constructors import WRITTEN_IN, file_of, origin
from ..core.errors import UserError
from ..core.files import digest_of_parts, home, read_json, sha256, write_json

MADE_OF, SAID = "made_of", "said"
# How to begin anew.
ELSEWHERE = "choose another --workdir"
# Numbers that agree so far are the same: another machine may round a last bit otherwise.
TOLERANCE = 1e-9
# Arrays of more numbers are told from others by a digest.
LISTED = 64
# Letters of a digest, or of a list, that a message shows.
SHOWN = 60


class _Unset:
    def __repr__(self) -> str:
        return "not set"


UNSET = _Unset()


def differences(stored: Any, given: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name of each field that differs, with what it was and what it is."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        for key in sorted(stored.keys() | given.keys()):
            if key not in stored and _is_code(key, given[key]):
                continue  # an earlier release did not look at it
            inner = f"{name}.{key}" if name else key
            yield from differences(stored.get(key, UNSET), given.get(key, UNSET), inner)
    elif not _same(stored, given):
        yield name, stored, given


def _is_code(key: str, value: Any) -> bool:
    """Say whether a field holds digests of parts' files and nothing else."""
    several = isinstance(value, Mapping)
    return all(_is_code(*one) for one in value.items()) if several else key == WRITTEN_IN


def _same(stored: Any, given: Any) -> bool:
    if isinstance(stored, list) and isinstance(given, list):
        return len(stored) == len(given) and all(map(_same, stored, given))
    if isinstance(stored, float) and isinstance(given, float):
        return math.isclose(stored, given, rel_tol=TOLERANCE) or stored == given
    return stored == given


def require_same(
    record: Path,
    made_of: Mapping[str, Any],
    said: Mapping[str, str],
    *,
    what: str,
    older: Callable[[dict], dict] | None = None,
    elsewhere: str = ELSEWHERE,
) -> bool:
    """Refuse a folder whose results are made of something else.

    Args:
        record: the file in it that says what they are made of (`write_record`); it must be there.
        made_of: JSON data; what they are to be made of now.
        said: where the things that are compared lie, by the dotted names of ``made_of``.
        what: the results, for messages: "images".
        older: of a record that an earlier release wrote, returns those fields of ``made_of`` that
            can be told from it.
        elsewhere: how to begin anew, for messages.

    Returns:
        Whether all of ``made_of`` was compared, and not an older record's part of it.

    Raises:
        UserError: they differ, with what differs and the way out; or the record is unreadable.
    """
    way_out = f"{elsewhere}, or restore that file from a copy of the {what}"
    stored = read_json(record, way_out)
    if not isinstance(stored, dict):
        raise UserError(f"{record} says nothing of the {what} beside it: {way_out}")
    whole = MADE_OF in stored
    given = plain(made_of)
    if whole:
        there, beside = stored[MADE_OF], stored.get(SAID, {})
    elif older is not None:
        there, beside = plain(older(stored)), {}
        given = {key: given[key] for key in there.keys() & given.keys()}
    else:
        raise UserError(f"{record} says nothing of the {what} beside it: {way_out}")
    if different := list(differences(there, given)):
        name, was, now = different[0]
        more = f" ({len(different) - 1} more differ)" if len(different) > 1 else ""
        changed = changed_code(name, was, now) or (
            f"{name} was {_shown(was)}{_place(name, beside)} and is "
            f"{_shown(now)}{_place(name, said)}"
        )
        raise UserError(
            f"{record.parent} holds {what} made of something else (see {record.name}): "
            f"{changed}{more}. Give again what they were made of, or {elsewhere}"
        )
    return whole


def write_record(
    record: Path, made_of: Mapping[str, Any], said: Mapping[str, str], **more: Any
) -> None:
    """Say beside results what they are made of, whole or not at all.

    Args:
        record: the file.
        made_of, said: as in `require_same`.
        more: JSON data that is kept beside them.
    """
    write_json(record, {**more, MADE_OF: plain(made_of), SAID: dict(said)})


def described(made: Any) -> Any:
    """Return as JSON data what a part is made of: a rule, a solver, a number, a file.

    A part is the name of its constructor with those arguments that differ from its defaults, so
    that it is the same however it was written down. A file that a constructor reads is its digest,
    and so is the one that a part from outside is written in: with other code it is another part.
    """
    if (known := origin(made)) is not None:
        defaults = {name: one.default for name, one in known.constructor.parameters.items()}
        given = {key: described(value) for key, value in known.arguments.items()}
        differ = {
            key: value for key, value in given.items() if value != described(defaults.get(key))
        }
        return {"name": known.constructor.name} | differ | known.constructor.written_in
    if dataclasses.is_dataclass(made) and not isinstance(made, type):
        fields = {one.name: getattr(made, one.name) for one in dataclasses.fields(made)}
        file = file_of(type(made))
        written = {} if file is None else {WRITTEN_IN: sha256(file)}
        return {"name": type(made).__name__} | described(fields) | written
    if isinstance(made, Mapping):
        return {str(key): described(value) for key, value in made.items()}
    if isinstance(made, (list, tuple)):
        return [described(value) for value in made]
    if isinstance(made, (str, Path)):
        path = Path(made)
        return {"sha256": sha256(home(path))} if _is_file(path) else str(made)
    if made is None or isinstance(made, (bool, int, float)):
        return made
    if hasattr(made, "dtype"):
        array = np.asarray(made)
        if array.size <= LISTED:
            return array.tolist()
        contents = digest_of_parts([array])
        return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": contents}
    return getattr(made, "__qualname__", type(made).__qualname__)


def _is_file(path: Path) -> bool:
    # A word that is no file's name may be that of a file somewhere.
    try:
        return bool(path.suffix) and home(path).is_file()
    except (OSError, ValueError):
        return False


def plain(data: Any) -> Any:
    """Return JSON data as it is read back: tuples are lists, keys are strings."""
    return json.loads(json.dumps(data))


def changed_code(name: str, was: Any, now: Any) -> str:
    """Return what a message says of a field that differs where it is a part's code; else nothing.

    Args:
        name, was, now: as `differences` yields them.
    """
    part, _, field = name.rpartition(".")
    if field != WRITTEN_IN:
        return ""
    then, today = (one[:12] if isinstance(one, str) else repr(one) for one in (was, now))
    return (
        f"the file that {part.removeprefix('outside.')} is written in was changed since (its "
        f"sha256 was {then} and is {today})"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _place(name: str, said: Mapping[str, str]) -> str:
    """Return where a field's thing lies, as it is said of the field or of one that holds it."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if place := said.get(".".join(parts[:end])):
            return f" ({place})"
    return ""
