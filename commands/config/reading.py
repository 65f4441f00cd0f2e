"""What a mode reads of a config, and a refusal of everything else that was set."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...core.errors import UserError

# What every mode reads: before it begins, or in its messages.
ALWAYS = ("name", "imports", "hosts", "compilation_cache")

# Sections whose fields are names that a person chooses.
OPEN = ("roles", "evaluators", "sampler", "sampling.weights", "sampling.inputs")
# Those of a section that an experiment adds.
ADDED = {
    "evaluation": dict.fromkeys(
        (
            *("classifier", "statistics", "statistics_key", "extractor"),
            *("metrics", "count", "repeats", "resample"),
        )
    ),
}


def reads(prefixes: Sequence[str], field: str) -> bool:
    """Say whether a field, or a part of it, is among what a mode reads.

    Args:
        prefixes: dotted names of fields and sections; with a ``-`` before it, one that is not read
            though its section is.
        field: dotted name of a field or section.
    """
    left_out = [one[1:] for one in prefixes if one.startswith("-")]
    if any(field == one or field.startswith(f"{one}.") for one in left_out):
        return False
    return any(
        field == one or field.startswith(f"{one}.") or one.startswith(f"{field}.")
        for one in (*ALWAYS, *prefixes)
    )


def require_read(
    mode: str,
    prefixes: Sequence[str],
    given: Sequence[str],
    others: Callable[[str], Sequence[str]],
) -> None:
    """Refuse fields that were set on the command line and that a mode does not read.

    Args:
        mode: its name.
        prefixes: what it reads, its ``READS``.
        given: dotted names of the fields that were set.
        others: the names of the modes that read a field, for the message.

    Raises:
        UserError: the first field that is not read, and the modes that read it.
    """
    for field in given:
        if reads(prefixes, field):
            continue
        able = [one for one in others(field) if one != mode]
        which = f"--mode={' and --mode='.join(able[:4])} do" if able else "no mode does"
        raise UserError(
            f"config.{field} was set, and --mode={mode} does not read it ({which}): leave it out"
        )


def require_known(
    config: Mapping[str, Any],
    known: Mapping[str, Any],
    others: Callable[[str], Sequence[str]],
    place: str = "",
) -> None:
    """Refuse fields of a config's file that nothing reads, such as misspelt ones.

    A section that names a part takes that part's arguments, which are checked where it is made.

    Args:
        config: as its file gives it.
        known: the fields that every experiment has, `configs.common.base`.
        others: as in `require_read`; sections that an experiment adds are those that a mode reads.
        place: dotted name of the section that both are.

    Raises:
        UserError: the first such field, those that there are and the nearest.
    """
    for key, value in config.items():
        field = f"{place}.{key}" if place else str(key)
        if key in known or field in ADDED:
            inner = known.get(key, ADDED.get(field))
            sections = isinstance(inner, Mapping) and isinstance(value, Mapping)
            if sections and "name" not in inner and field not in OPEN:
                require_known(value, inner, others, field)
        elif place or not others(field):
            near = difflib.get_close_matches(str(key), map(str, known), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(
                f"the file of --config sets config.{field}, and {place or 'a config'} has no field "
                f"{key!r}, it has {', '.join(map(str, known))}{hint}"
            )


def require_argument_read(
    mode: str,
    prefixes: Sequence[str],
    changed: Sequence[str],
    others: Callable[[str], Sequence[str]],
) -> None:
    """Refuse an argument of a config, ``FILE.py:argument``, that says nothing to a mode.

    Args:
        mode, prefixes, others: as in `require_read`.
        changed: the fields that the argument changes; the mode needs to read one of them.

    Raises:
        UserError: it reads none.
    """
    substance = [field for field in changed if not reads((), field)]
    # A mode that reads nothing of a config takes any, with what was said of it before.
    if prefixes and substance and not any(reads(prefixes, field) for field in substance):
        able = [one for one in others(substance[0]) if one != mode]
        which = f"--mode={' and --mode='.join(able[:4])} do" if able else "no mode does"
        raise UserError(
            f"the config's argument (what stands after the colon of --config) sets "
            f"{', '.join(substance[:3])}, which --mode={mode} does not read ({which}): leave it "
            f"out, or choose another mode"
        )


def differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of the fields in which two configs differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}, key=str):
            inner = f"{name}.{key}" if name else str(key)
            if key not in one or key not in other:
                yield inner
            else:
                yield from differences(one[key], other[key], inner)
    elif one != other:
        yield name
