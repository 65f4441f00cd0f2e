"""Named constructors: one table for all that a config can name, and all that can be added to it.

A constructor is a public function (or class) that makes a part: a rule, a solver, a network, a
loss. Registered under its name it is reached from configs and the command line; what it makes
remembers the call, so that it can be described, cited and written back as a config.
"""

import contextlib
import difflib
import functools
import inspect
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from .calls import check_call, hints_of, owner_of, refuse_nan
from .constructors import KINDS, Constructor, Origin, origin
from .errors import UserError
from .part_types import PART_TYPES, checked, declares_parts, is_section, kinds_of, named_value
from .text import shown

F = TypeVar("F", bound=Callable)


class Registry:
    """The constructors of one table, by name.

    Args:
        table: its name, see `KINDS`.
    """

    def __init__(self, table: str):
        self.table = table
        self._constructors: dict[str, Constructor] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._constructors

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._constructors))

    def __len__(self) -> int:
        return len(self._constructors)

    def __getitem__(self, name: str) -> Constructor:
        return self._constructors[name]

    def add(self, entry: Constructor) -> None:
        """Add a constructor.

        Raises:
            UserError: another function has that name already.
        """
        known = self._constructors.get(entry.name)
        same = known and (known.build.__module__, known.build.__qualname__) == (
            entry.build.__module__,
            entry.build.__qualname__,
        )
        if known and not same:
            raise UserError(
                f"{entry.name!r} of {entry.build.__module__} cannot be registered: "
                f"{KINDS[known.kind].word} of that name is registered by "
                f"{known.build.__module__}; give yours another name"
            )
        self._constructors[entry.name] = entry

    def find(self, name: Any, where: str) -> Constructor:
        """Return a constructor by name.

        Args:
            name: as a config has it.
            where: its place in the config, for the message.

        Raises:
            UserError: none of that name, with those that there are and the nearest.
        """
        if isinstance(name, str) and name in self._constructors:
            return self._constructors[name]
        near = difflib.get_close_matches(str(name), list(self))
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        if not self._constructors:
            raise UserError(
                f"{where}.name {name!r}: nothing of that kind is registered yet; import the module "
                f"that has it first"
            )
        raise UserError(f"{where}.name {name!r} is not one of {', '.join(self)}{hint}")

    def build(self, section: Any, where: str, *given: Any) -> Any:
        """Make what ``{"name": constructor, argument: value, ...}`` says; values may nest.

        Args:
            section: a config's section, as a plain dictionary. An argument that is declared as a
                `Mapping` is handed on as it is.
            where: its place in the config, for messages: ``guidance.push.1``.
            given: arguments of the constructor that come before those of the section.

        Raises:
            UserError: an unknown name, an unknown, missing or misplaced argument, a value of
                another type than declared, or one that the constructor refuses.
        """
        return self.prepared(section, where, len(given))(*given)

    def prepared(self, section: Any, where: str, given: int = 0) -> Callable:
        """Return what makes a part, its arguments checked: a function of the first ``given``.

        Raises:
            UserError: as `build`; what the constructor itself refuses, when it is called.
        """
        if not isinstance(section, Mapping):
            raise UserError(
                f"{where} must be a dictionary with the name of {self._words()} and its "
                f"arguments, such as {{'name': {next(iter(self), '...')!r}}}, got {shown(section)}"
            )
        entry = self.find(section.get("name"), where)
        parameters = dict(list(entry.parameters.items())[given:])
        hints = hints_of(entry.build)
        values = {
            key: value
            if is_section(hints.get(key))
            else self._value(value, f"{where}.{key}", hints.get(key))
            for key, value in section.items()
            if key != "name"
        }
        open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        if unknown := [key for key in values if key not in parameters and not open_ended]:
            raise UserError(
                f"{where}: {entry.name} has no argument {unknown[0]!r}; it takes "
                f"{', '.join(parameters) or 'none'}"
            )
        for key, parameter in parameters.items():
            optional = parameter.kind is parameter.VAR_KEYWORD
            if key not in values and parameter.default is parameter.empty and not optional:
                raise UserError(f"{where}: {entry.name} needs the argument {key!r}")
        first: list[Any] = []
        several: tuple = ()
        for key, value in list(values.items()):
            place, wanted = f"{where}.{key}", hints.get(key, Any)
            if key in parameters and parameters[key].kind is inspect.Parameter.VAR_POSITIONAL:
                if not isinstance(value, tuple):
                    raise UserError(
                        f"{place}: {entry.name} takes a list here, got {named_value(value)}"
                    )
                several = tuple(
                    checked(one, wanted, f"{place}.{i}", entry.name)
                    for i, one in enumerate(values.pop(key))
                )
            else:
                values[key] = checked(value, wanted, place, entry.name)
        if several:
            # What comes before the variadic argument can then be given by position alone.
            kinds = [parameter.kind for parameter in parameters.values()]
            before = list(parameters)[: kinds.index(inspect.Parameter.VAR_POSITIONAL)]
            first = [values.pop(key, parameters[key].default) for key in before]

        def make(*before: Any) -> Any:
            with explained(where):
                return entry.build(*before, *first, *several, **values)

        return make

    def _words(self) -> str:
        return " or ".join(kind.word for kind in KINDS.values() if kind.table == self.table)

    def _value(self, value: Any, where: str, wanted: Any = None) -> Any:
        """Build what a value of a section stands for, where something of a type is wanted."""
        if isinstance(value, Mapping) and "name" in value:
            tables = [registry(kind) for kind in kinds_of(wanted)] or [self]
            named = (table for table in tables if value["name"] in table)
            return next(named, tables[0]).build(value, where)
        if isinstance(value, Mapping):
            return {key: self._value(one, f"{where}.{key}") for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return tuple(self._value(one, f"{where}.{i}") for i, one in enumerate(value))
        return value


_TABLES: dict[str, Registry] = {}


def registry(kind: str) -> Registry:
    """Return the table of a kind of part; kinds of one table share it.

    Raises:
        UserError: no such kind.
    """
    if callable(kind):
        raise UserError(f'register: write @register("rule"), or another of {", ".join(KINDS)}')
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"register: {kind!r} is not one of {', '.join(KINDS)}{hint}")
    table = KINDS[kind].table
    return _TABLES.setdefault(table, Registry(table))


def written_in(sections: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return `Constructor.written_in` of the parts from outside that a config names, by name.

    Args:
        sections: in the places that `KINDS` names; those that are not given are passed over.
    """
    found = {}
    for kind, (_, _, place) in KINDS.items():
        section: Any = sections
        for name in place.split("."):
            section = section.get(name) if isinstance(section, Mapping) else None
        for entry in _entries(section, registry(kind)):
            if digest := entry.written_in:
                found[entry.name] = digest
    return found


def _entries(section: Any, table: Registry) -> Iterator[Constructor]:
    """Yield the constructors that a section names, further in, too."""
    inside = [registry(part.kind) for part in PART_TYPES.values() if part.kind]
    if isinstance(section, Mapping):
        named = (one for one in (table, *inside) if section.get("name") in one)
        yield from (one[section["name"]] for one in itertools.islice(named, 1))
        section = list(section.values())
    for one in section if isinstance(section, (list, tuple)) else ():
        yield from _entries(one, table)


def registered() -> Iterator[Constructor]:
    """Yield every constructor of every table."""
    for table in list(_TABLES.values()):
        yield from (table[name] for name in table)


def register(kind: str, *sources: str, name: str | None = None) -> Callable[[F], F]:
    """Register a constructor: configs, the command line and descriptions know it from then on.

    Calls with a value of another type than the function declares, or with NaN where it declares a
    number, are refused in its name; what it returns remembers the call. That record is an
    attribute and no part of the pytree: it never makes a program compile anew, and a copy with
    other numbers (`jax.tree.map`) has none.

    >>> from guidestar import guidance, register
    >>> @register("rule")
    ... def doubled(scale: float):
    ...     return guidance.cfg(2 * scale)
    >>> guidance.from_config({"name": "doubled", "scale": 1.5}) == guidance.cfg(3.0)
    True

    Args:
        kind: ``rule``, ``transform``, ``reference``, ``solver``, ``schedule``, ``prior``,
            ``network``, ``loss``, ``noise``, ``weighting``, ``source``, ``metric``, ... (`KINDS`).
        sources: arXiv numbers of the papers it implements.
        name: what configs call it; the function's own name if None.

    Raises:
        UserError: no such kind, or a name that is taken.
    """
    table = registry(kind)

    def add(function: F) -> F:
        known_as = name or function.__name__
        signature = inspect.signature(function)

        @functools.wraps(function)
        def build(*args, **kwargs):
            try:
                bound = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"{owner_of(entry)}: {error}") from None
            check_call(entry, bound, declares_parts)
            # The constructor's own checks go first: they know what each number is for.
            try:
                built = function(*args, **kwargs)
            except Exception as error:
                if f".{known_as}: " not in str(error):
                    check_call(entry, bound)
                raise
            check_call(entry, bound)
            refuse_nan(entry, bound)
            # An array (a schedule) has no place for the record.
            before = origin(built)
            if before is not None and before.constructor is entry:
                before = before.within
            with contextlib.suppress(AttributeError, TypeError):
                object.__setattr__(built, "_origin", Origin(entry, dict(bound), before))
            return built

        entry = Constructor(known_as, kind, build, sources)
        table.add(entry)
        return typing.cast(F, build)

    return add


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what a constructor refuses into an error that begins with its place in the config."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        said = message if message.startswith(where) else f"{where}: {message}"
        raise UserError(said) from error
