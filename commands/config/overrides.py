"""Fields of a config from the command line: ``--config.section.field=value``.

A section that names a part (``guidance``, ``sampler.solver``, ``training.noise``) takes the
arguments of the part it names, whichever that is; naming another part keeps the arguments that
both take.
"""

import ast
import contextlib
import difflib
import importlib
import inspect
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ...core.constructors import KINDS, Constructor
from ...core.errors import UserError
from ...core.files import home
from ...core.registry import Registry, registry

# Where the constructors of a table register themselves.
OWNERS = {
    "guidance": "guidestar.guidance",
    "search": "guidestar.inference.search",
    "solver": "guidestar.samplers",
    "schedule": "guidestar.samplers",
    "prior": "guidestar.samplers",
    "network": "guidestar.models.builders",
    "source": "guidestar.input_pipeline",
    "extractor": "guidestar.evaluation",
    "metric": "guidestar.evaluation",
}
TRAINING = "guidestar.training.recipes"
# Where commands are run, and paths of configs begin.
ROOT = Path(__file__).resolve().parents[2]
# Where a config keeps what the command line says of it.
GIVEN = "_given"
FLAG = re.compile(r"--?(no)?config[.\[](.*)", re.DOTALL)
# Sections whose names are the user's: networks, their inputs, roles, evaluators.
OPEN = ("sampling.weights", "sampling.inputs", "roles", "evaluators")
# Noise levels belong to the network: another schedule keeps them.
RANGE = ("sigma_min", "sigma_max")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Override(NamedTuple):
    """A field and what it is to be.

    Attributes:
        path: names of sections and of the field; whole numbers are places in a list.
        text: the value as it was written.
    """

    path: tuple[str | int, ...]
    text: str

    @property
    def name(self) -> str:
        """The field, ``guidance.push.1.norm``."""
        return dotted(self.path)


class Given(NamedTuple):
    """What a command line says of a config.

    Attributes:
        base: the config as its file gives it.
        overrides: the fields that were replaced, in their order.
        file: the value of ``--config``; empty where there was none.
    """

    base: ConfigDict
    overrides: tuple[Override, ...]
    file: str = ""


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as it is written on the command line."""
    return ".".join(map(str, path))


def split(arguments: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Take the overrides out of a command line.

    Args:
        arguments: ``--config.a.b=v``, ``--config.a.b v``, ``--config.a.b`` for true,
            ``--noconfig.a.b`` for false, and others; entries of lists as ``a.1`` or ``a[1]``.

    Returns:
        The others, and the overrides in their order.

    Raises:
        UserError: an override without a value where one is needed.
    """
    others, found, waiting = [], [], list(arguments)
    while waiting:
        one = waiting.pop(0)
        match = FLAG.match(one)
        if one == "--":
            return [*others, one, *waiting], found
        if not match:
            others.append(one)
            continue
        name, equals, text = match[2].partition("=")
        if match[1]:
            text, equals = "false", "="
        elif not equals:
            follows = bool(waiting) and not waiting[0].startswith("-")
            text = waiting.pop(0) if follows else "true"
        found.append(Override(_path(name), text))
    return others, found


def _path(name: str) -> tuple[str | int, ...]:
    parts = re.sub(r"\[(\d+)\]", r".\1", name).strip(".").split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def override(name: str, value: Any) -> Override:
    """Return the override that gives a field a value of Python's.

    Args:
        name: of the field, ``guidance.scale`` or ``config.guidance.scale``.
        value: a number, a text, a list or a section.
    """
    return Override(
        _path(name.removeprefix("config.")), value if isinstance(value, str) else repr(value)
    )


def apply(config: ConfigDict, overrides: Sequence[Override], file: str = "") -> ConfigDict:
    """Return a config with fields replaced.

    Args:
        config: as its file gives it.
        overrides: in the order in which they were written.
        file: the value of ``--config``, which `given` returns.

    Raises:
        UserError: a field that there is not (naming the nearest), a value of another type, an
            entry beyond a list's end, a part or an argument of one that there is not.
    """
    tree = config.to_dict()
    # A part is named before its arguments are given, whichever was written first.
    named = [one for one in overrides if one.path[-1] == "name"]
    rest = [one for one in overrides if one.path[-1] != "name"]
    for one in (*sorted(named, key=lambda one: len(one.path)), *rest):
        tree = _replaced(tree, one, one.path, ())
    replaced = _in_order(tree)
    # Beside the fields, so that no comparison and no record sees it.
    object.__setattr__(replaced, GIVEN, Given(config, tuple(overrides), file))
    return replaced


def given(config: ConfigDict) -> Given:
    """Return what the command line says of a config; of one that no command gave, nothing."""
    return getattr(config, GIVEN, Given(config, ()))


def extended(config: ConfigDict, overrides: Sequence[Override]) -> ConfigDict:
    """Return what a config would be if its command line had more overrides at its end.

    Raises:
        UserError: as `apply`.
    """
    base, before, file = given(config)
    return apply(base, (*before, *overrides), file)


def command(
    config: ConfigDict, mode: str, workdir: str, *more: Override, leave_out: str = ""
) -> str:
    """Return a command that runs a config again as its command line gave it.

    Args:
        config: as `apply` returned it.
        mode, workdir: of the command.
        more: overrides at its end.
        leave_out: a section whose overrides the mode does not read.

    Returns:
        One line for a shell; without ``--config`` where no file gave the config.
    """
    _, before, file = given(config)
    path, colon, argument = file.partition(":")
    with contextlib.suppress(ValueError):
        path = str(home(path).resolve().relative_to(ROOT))
    said = [one for one in before if one.path[0] != leave_out]
    words = [f"--config.{one.name}={_quotable(one.text)}" for one in (*said, *more)]
    source = [f"--config={path}{colon}{argument}"] if file else []
    options = [*source, f"--workdir={workdir}", f"--mode={mode}", *words]
    return shlex.join(["python", "main.py", *options])


def _quotable(text: str) -> str:
    """Return a list or a section with the quotes in it that a shell leaves alone in its own."""
    literal = text[:1] in ("{", "[", "(") and '"' not in text
    return text.replace("'", '"') if literal else text


def is_given(config: ConfigDict, field: str) -> bool:
    """Say whether the command line has set a field, alone or with the section that it is in."""
    names = {one.name for one in given(config).overrides}
    return any(field == name or field.startswith(f"{name}.") for name in names)


def _in_order(tree: Any) -> Any:
    """Return a config whose names stay in their owner's order: by default they are sorted."""
    if not isinstance(tree, Mapping):
        return tree
    inner = {key: _in_order(value) for key, value in tree.items()}
    return ConfigDict(inner, sort_keys=False)


def _replaced(value: Any, given: Override, path: tuple, before: tuple) -> Any:
    """Return what a value becomes when the field at ``path`` inside it is replaced."""
    if not path:
        return _typed(value, given.text, given.name)
    key, here = path[0], (*before, path[0])
    if isinstance(value, (list, tuple)):
        if not isinstance(key, int) or key >= len(value):
            raise UserError(
                f"{given.name}: {dotted(before)} has the entries 0 to {len(value) - 1}, and "
                f"{key!r} is none of them"
            )
        entries = list(value)
        entries[key] = _replaced(entries[key], given, path[1:], here)
        return type(value)(entries)
    if not isinstance(value, Mapping):
        raise UserError(f"{given.name}: {dotted(before)} is {value!r}, which has no fields")
    table = table_of(before)
    if table is not None and "name" in value:
        if path == ("name",):
            return _renamed(value, given.text, table, before)
        if key not in value:
            return value | {key: _argument(value, given, path, table, before)}
    if key not in value and _is_open(before):
        inner = {} if path[1:] else None
        return {**value, key: _replaced(inner, given, path[1:], here)}
    if key not in value:
        near = difflib.get_close_matches(str(key), map(str, value), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        where = f"config.{dotted(before)}" if before else "the config"
        raise UserError(
            f"--config.{given.name}: {where} has no field {key!r}, it has "
            f"{', '.join(map(str, value)) or 'none'}{hint}"
        )
    return {**value, key: _replaced(value[key], given, path[1:], here)}


def _is_open(path: Sequence[str | int]) -> bool:
    place = dotted(path)
    return any(place == one or place.startswith(f"{one}.") for one in OPEN)


def table_of(path: Sequence[str | int]) -> Registry | None:
    """Return the table that names the parts of a section; None for sections that name none."""
    place = dotted(path)
    for kind, about in KINDS.items():
        nested = about.table == "guidance" and place.startswith(("guidance.", "restore.operator"))
        if place == about.place or nested:
            importlib.import_module(OWNERS.get(about.table, TRAINING))
            return registry(kind)
    return None


def _renamed(section: Mapping, text: str, table: Registry, path: tuple) -> dict[str, Any]:
    """Return a section that names another part, with the arguments that both of them take."""
    name = text.strip().strip("'\"")
    if table is registry("source"):
        # A folder's or a TFDS set's is a name, too, and every set is chosen by the same fields.
        return {**section, "name": name}
    entry = table.find(name, dotted(path))
    if section["name"] == name:
        return dict(section)
    old = taken(table[section["name"]]) if section["name"] in table else {}
    kept = {
        key: value
        for key, value in section.items()
        if key in taken(entry)
        and (key in RANGE or not _other_default(value, old.get(key), taken(entry)[key]))
    }
    rules = [key for key in needed(entry) if key not in kept and _takes_a_rule(entry, key)]
    if rules and table is registry("rule"):
        # A rule around rules is put around the one that was there.
        kept = {key: value for key, value in kept.items() if key in needed(entry)}
        kept[rules[0]] = dict(section)
    return {"name": name} | kept


def _other_default(
    value: Any, old: inspect.Parameter | None, new: inspect.Parameter | None
) -> bool:
    """Say whether a value was the old part's default, and the new one has a default of its own.

    The ``rho`` of `karras` is 7 where nobody chose it, and that of `vp` is 1.
    """
    if old is None or new is None or old.default is old.empty or new.default in (new.empty, None):
        return False
    return value == old.default and new.default != old.default


def taken(entry: Constructor) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a part that configs may give by name."""
    return {
        key: one
        for key, one in entry.parameters.items()
        if one.kind not in (one.VAR_KEYWORD, one.POSITIONAL_ONLY)
    }


def needed(entry: Constructor) -> list[str]:
    """Return the arguments that a part cannot do without."""
    return [key for key, one in taken(entry).items() if one.default is one.empty]


def _takes_a_rule(entry: Constructor, key: str) -> bool:
    from ...guidance.protocol import Rule

    hints = typing.get_type_hints(inspect.unwrap(entry.build))
    return hints.get(key) is Rule


def _argument(section: Mapping, given: Override, path: tuple, table: Registry, before: tuple):
    """Return the value of an argument that a section did not have yet."""
    name, key = section["name"], path[0]
    if table is registry("source") and name not in table:
        name = "tfds"
    entry = table.find(name, dotted(before))
    arguments = taken(entry)
    open_ended = any(one.kind is one.VAR_KEYWORD for one in entry.parameters.values())
    if key not in arguments and not open_ended:
        near = difflib.get_close_matches(str(key), arguments, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"--config.{given.name}: {entry.name} has no argument {key!r}; it takes "
            f"{', '.join(arguments) or 'none'}{hint}. Another part is named by "
            f"--config.{dotted((*before, 'name'))}=..."
        )
    if len(path) > 1:
        raise UserError(
            f"--config.{given.name}: {dotted((*before, key))} is not set in this config: give it "
            f"whole, --config.{dotted((*before, key))}=\"{{'name': ...}}\""
        )
    parameter = arguments.get(key)
    default = parameter.default if parameter is not None else None
    if default is inspect.Parameter.empty:
        default = None
    return _typed(default, given.text, given.name)


def _typed(old: Any, text: str, name: str) -> Any:
    """Read a value as one of the type that stands there; of any type where nothing does."""
    if isinstance(old, bool):
        word = text.strip().lower()
        if word not in (*TRUE, *FALSE):
            raise UserError(f"--config.{name}={text!r}: give true or false")
        return word in TRUE
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        value = text
    if old is None:
        return value
    if isinstance(old, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(
                f"--config.{name} is a section with the fields {', '.join(map(str, old))}: give "
                f"--config.{name}.FIELD=value"
            )
        return dict(value)
    if isinstance(old, (tuple, list)):
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(old, float) and number:
        return float(value)
    if isinstance(old, int) and isinstance(value, int) and number:
        return value
    if isinstance(old, (int, float)):
        kind = "a whole number" if isinstance(old, int) else "a number"
        raise UserError(f"--config.{name}={text!r}: give {kind}, such as {old!r}")
    return value
