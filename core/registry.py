"""Named constructors: one table for all that a config can name, and all that can be added to it.

A constructor is a public function (or class) that makes a part: a rule, a solver, a network, a
loss. Registered under its name it is reached from configs and the command line; what it makes
remembers the call, so that it can be described, cited and written back as a config.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .errors import UserError, WrongType
from .files import sha256
from .text import shown

F = TypeVar("F", bound=Callable)
# The digest of the file that a part from outside is written in. No argument has such a name.
WRITTEN_IN = "source file"


class Kind(NamedTuple):
    """A kind of part.

    Attributes:
        word: what messages call one, with its article.
        table: kinds of one table share their names.
        place: where configs name one.
    """

    word: str
    table: str
    place: str


KINDS: dict[str, Kind] = {
    "rule": Kind("a rule", "guidance", "guidance"),
    "transform": Kind("a transform of the push", "guidance", "guidance"),
    "reference": Kind("a reference", "guidance", "guidance"),
    "solver": Kind("a solver", "solver", "sampler.solver"),
    "schedule": Kind("a schedule of noise levels", "schedule", "sampler.schedule"),
    "prior": Kind("a prior", "prior", "sampler.prior"),
    "network": Kind("a network", "network", "model"),
    "loss": Kind("a loss", "loss", "training.loss"),
    "noise": Kind("a distribution of noise levels", "noise", "training.noise"),
    "weighting": Kind("a weighting of noise levels", "weighting", "training.weighting"),
    "kernel": Kind("a kernel of noise", "kernel", "training.kernel"),
    "augmentation": Kind("an augmentation", "augmentation", "training.augmentation"),
    "perturbation": Kind("a perturbation", "perturbation", "training.perturbation"),
    "objective": Kind("an objective", "objective", "training.objective"),
    "task_weights": Kind("weights of tasks", "objective", "training.objective.weights"),
    "source": Kind("a data set", "source", "data"),
    "extractor": Kind("a feature extractor", "extractor", "evaluation.extractor"),
    "metric": Kind("a metric", "metric", "evaluation.metrics"),
}


@dataclasses.dataclass(frozen=True)
class Constructor:
    """A function that makes a part.

    Attributes:
        name: what configs call it.
        kind: a key of `KINDS`.
        build: the function.
        sources: arXiv numbers of the papers it implements.
    """

    name: str
    kind: str
    build: Callable
    sources: tuple[str, ...] = ()

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Its arguments."""
        return inspect.signature(self.build).parameters

    @property
    def file(self) -> Path | None:
        """The file that a part from outside is written in; None of this package's own."""
        return file_of(inspect.unwrap(self.build))

    @property
    def written_in(self) -> dict[str, str]:
        """By `WRITTEN_IN`, the digest of its file: with other code, it is another part."""
        return {} if self.file is None else {WRITTEN_IN: sha256(self.file)}


def file_of(made: Any) -> Path | None:
    """Return the file of a function or class from outside; None of this package's own."""
    module = str(getattr(made, "__module__", ""))
    if module.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        found = inspect.getsourcefile(made)
    except TypeError:
        return None
    return Path(found) if found and Path(found).is_file() else None


@dataclasses.dataclass(frozen=True)
class Origin:
    """The call that made a part: its constructor and the arguments that were given.

    Attributes:
        constructor: the outermost one.
        arguments: those that were given to it.
        within: the call that the constructor made the part by, where that has a name, too.
    """

    constructor: Constructor
    arguments: Mapping[str, Any]
    within: "Origin | None" = None


class PartType(NamedTuple):
    """What an annotation asks for.

    Attributes:
        word: what messages call it.
        accepts: a test of values.
        hint: what to do with a part of another kind; empty where nothing helps.
    """

    word: str
    accepts: Callable[[Any], bool]
    hint: str = ""


# Types that constructors declare for their parts, by the class in the annotation.
PART_TYPES: dict[type, PartType] = {}


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
        hints = _hints(entry.build)
        values = {
            key: value if _is_section(hints.get(key)) else self._value(value, f"{where}.{key}")
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
                    raise UserError(f"{place}: {entry.name} takes a list here, got {_named(value)}")
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

    def _value(self, value: Any, where: str) -> Any:
        """Build what a value of a section stands for."""
        if isinstance(value, Mapping) and "name" in value:
            return self.build(value, where)
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
    if isinstance(section, Mapping):
        if section.get("name") in table:
            yield table[section["name"]]
        section = list(section.values())
    for one in section if isinstance(section, (list, tuple)) else ():
        yield from _entries(one, table)


def constructors() -> Iterator[Constructor]:
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
                raise TypeError(f"{_owner(entry)}: {error}") from None
            _check_call(entry, bound, _declares_parts)
            # The constructor's own checks go first: they know what each number is for.
            try:
                built = function(*args, **kwargs)
            except Exception as error:
                if f".{known_as}: " not in str(error):
                    _check_call(entry, bound)
                raise
            _check_call(entry, bound)
            _refuse_nan(entry, bound)
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


def takes_parts(package: str) -> Callable[[F], F]:
    """Refuse what is no part, or another one, where a function declares a part of some type.

    A constructor that was not called is the usual mistake. The checks go before the function.

    Args:
        package: in whose name, ``guidance``.

    Raises:
        WrongType: from the function that is decorated.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                given = {}  # Python itself says what does not fit
            for name, wanted in _hints(function).items():
                if name in given and _declares_parts(wanted):
                    checked(given[name], wanted, f"{package}.{function.__name__}", name)
            return function(*args, **kwargs)

        return typing.cast(F, call)

    return decorate


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what a constructor refuses into an error that begins with its place in the config."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        said = message if message.startswith(where) else f"{where}: {message}"
        raise UserError(said) from error


@functools.cache
def _hints(build: Callable) -> Mapping[str, Any]:
    """Return the annotations of a function, none where they name what is not at hand."""
    made = inspect.unwrap(build)
    try:
        return typing.get_type_hints(made.__init__ if isinstance(made, type) else made)
    except (NameError, TypeError, AttributeError):
        return {}


def _owner(entry: Constructor) -> str:
    return f"{KINDS[entry.kind].place.partition('.')[0]}.{entry.name}"


def _each(entry: Constructor, bound: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the argument, its value and what is declared for it; each of several by itself."""
    hints, parameters = _hints(entry.build), entry.parameters
    for key, value in bound.items():
        kind = parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((key, one, hints.get(key, Any)) for one in value)
        elif kind is not inspect.Parameter.VAR_KEYWORD:
            yield key, value, hints.get(key, Any)


def _is_section(wanted: Any) -> bool:
    """Say whether an argument is a section that the constructor itself reads."""
    return any((typing.get_origin(option) or option) is Mapping for option in _options(wanted))


def _check_call(
    entry: Constructor, bound: Mapping[str, Any], among: Callable[[Any], bool] = lambda wanted: True
) -> None:
    """Refuse a value of another type than the constructor declares, in its own name.

    Args:
        entry, bound: the constructor and its arguments.
        among: which annotations to look at.
    """
    for key, value, wanted in _each(entry, bound):
        if among(wanted) and (found := mismatch(value, wanted)):
            path, text = found
            raise WrongType(f"{_owner(entry)}: {key}{path} takes {text}")


def _refuse_nan(entry: Constructor, bound: Mapping[str, Any]) -> None:
    """Refuse NaN where a number is declared, in the constructor's name; traced values pass."""
    for key, value, wanted in _each(entry, bound):
        if _declares_numbers(wanted) and _has_nan(value):
            raise UserError(f"{_owner(entry)}: {key} must be a number, got {value}")


def _declares_parts(wanted: Any) -> bool:
    options = (typing.get_origin(option) or option for option in _options(wanted))
    return any(isinstance(option, type) and option in PART_TYPES for option in options)


def _declares_numbers(wanted: Any) -> bool:
    several = [one for option in _options(wanted) for one in typing.get_args(option)]
    return float in _options(wanted) or any(map(_declares_numbers, several))


def _has_nan(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_has_nan, value))
    if isinstance(value, jax.core.Tracer) or not (isinstance(value, float) or _is_array(value)):
        return False
    return jnp.issubdtype(getattr(value, "dtype", float), jnp.inexact) and bool(
        np.isnan(value).any()
    )


def checked(value: Any, wanted: Any, where: str, owner: str) -> Any:
    """Return a value that is of the type its constructor declares.

    Args:
        value: what was given.
        wanted: the annotation; types that nothing is known of pass.
        where, owner: whose argument it is, for the message.

    Raises:
        UserError: another type.
    """
    if found := mismatch(value, wanted):
        path, text = found
        raise WrongType(f"{where}{path}: {owner} takes {text}")
    return value


def mismatch(value: Any, wanted: Any) -> tuple[str, str] | None:
    """Return where in a value another type than declared was found, and what is said of it.

    Args:
        value: what was given.
        wanted: the annotation; types that nothing is known of pass.

    Returns:
        A path (``.1`` in a list, else empty) and a text such as ``a number here, got '3'``; None
        where the type is right.
    """
    options = _options(wanted)
    kinds = [_part_type(option) for option in options]
    fitting = [one for one, kind in zip(options, kinds, strict=True) if kind.accepts(value)]
    if fitting:
        inside = [_mismatch_inside(value, option) for option in fitting]
        return None if None in inside else inside[0]
    named = list(dict.fromkeys(kind.word for kind in kinds))
    hint = next((kind.hint for kind in kinds if kind.hint and part_word(value)), "")
    return "", f"{' or '.join(named)} here, got {_named(value)}{hint}"


def _mismatch_inside(value: Any, option: Any) -> tuple[str, str] | None:
    """Return what `mismatch` returns of the first of a list's values that is not as declared."""
    wanted = typing.get_args(option)
    if (typing.get_origin(option) or option) not in _LISTS or not wanted:
        return None
    if _is_array(value):  # its numbers are of one type
        return (
            None
            if _has_numbers(value) or not _declares_numbers(wanted[0])
            else (
                "",
                f"numbers here, got {shown(value)}",
            )
        )
    if typing.get_origin(option) is tuple and wanted[-1] is not Ellipsis:
        if len(value) != len(wanted):
            return "", f"{len(wanted)} values here, got {_named(value)}"
    else:
        wanted = wanted[:1] * len(value)
    for number, (one, of) in enumerate(zip(value, wanted, strict=True)):
        if found := mismatch(one, of):
            return f".{number}{found[0]}", found[1]
    return None


def _options(wanted: Any) -> tuple:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return typing.get_args(wanted)
    return (wanted,)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _has_numbers(value: Any) -> bool:
    return _is_array(value) and jnp.issubdtype(value.dtype, jnp.number)


def _is_number(value: Any, plain: type, kind: Any) -> bool:
    """Return whether a value is a plain number, or an array of one."""
    if _is_array(value):
        return value.shape == () and jnp.issubdtype(value.dtype, kind)
    return isinstance(value, plain) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__len__"):
        return False
    return value.shape != () if _is_array(value) else hasattr(value, "__iter__")


_PLAIN: dict[Any, PartType] = {
    bool: PartType("true or false", lambda value: isinstance(value, (bool, np.bool_))),
    str: PartType("a string", lambda value: isinstance(value, str)),
    int: PartType("a whole number", lambda value: _is_number(value, numbers.Integral, jnp.integer)),
    float: PartType("a number", lambda value: _is_number(value, numbers.Real, jnp.number)),
    jax.Array: PartType("an array of numbers", _has_numbers),
    types.NoneType: PartType("None", lambda value: value is None),
}
_LISTS = (tuple, list, Sequence)
_ANYTHING = PartType("something else", lambda value: True)


def _part_type(option: Any) -> PartType:
    outer = typing.get_origin(option) or option
    if outer is Mapping:
        return PartType("a section", lambda value: isinstance(value, Mapping))
    if outer in _LISTS:
        return PartType("a list", _is_list)
    try:
        return PART_TYPES.get(outer) or _PLAIN.get(outer) or _ANYTHING
    except TypeError:  # an annotation that cannot be hashed
        return _ANYTHING


def part_word(value: Any) -> str | None:
    """Return what messages call a part, by the types that are known; None for other values."""
    return next((one.word for one in PART_TYPES.values() if one.accepts(value)), None)


def _named(value: Any) -> str:
    """Return what a message calls a value that is out of place."""
    if inspect.isroutine(value):
        return f"{shown(value)}: call it"
    part, known = part_word(value), origin(value)
    return f"{part} ({known.constructor.name})" if part and known else part or shown(value)


def origin(made: Any) -> Origin | None:
    """Return the call that made a part; None for one made by hand."""
    return getattr(made, "_origin", None)


def name_of(made: Any) -> str:
    """Return what messages call a part: its constructor's name, or its class's."""
    known = origin(made)
    return known.constructor.name if known else type(made).__name__
