"""What a weight file offers: its tensors by name, and what it says about them."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ....core.files import Array
from .lazy_tensor import LazyTensor, contiguous_strides
from .pickle_machine import Allowed
from .records import ArrayRecord, ObjectRecord, TensorRecord
from .weight_file import RESAVE, Span, WeightFile

# In the order in which they are taken where a file has several and none is named.
PREFERRED = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
RAW = ("model", "state_dict", "model_state_dict", "module", "net", "params", "weights")
# Of what trains weights, and not weights.
STATES = ("optimizer", "optimizers", "opt", "optim", "scheduler", "lr_scheduler", "scaler", "rng")
DEEPEST = 64
MOST_VALUES = 500_000
MODULE_COST = 16
MOST_SHOWN = 4096
# Tied weights and expanded buffers make a state dict larger than its file, though never by much.
MOST_EXPANSION = 8
EXPANSION_ALLOWANCE = 16 << 20


@dataclasses.dataclass(frozen=True)
class ModuleInfo:
    """A module whose class the file names.

    Attributes:
        class_name: without its package.
        init_args, init_kwargs: what it was made with, plain data.
        attributes: its other public attributes that are plain scalars.
    """

    class_name: str
    init_args: tuple = ()
    init_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Description:
    """What kind of file it is and which of its parts was taken.

    Attributes:
        format: "torch zip", "torch legacy", "pickle" or "safetensors".
        entry: key of the state dict that was taken; None where the file is one.
        entries: keys of all state dicts in the file.
        modules: by path in the module tree ("" is the root); empty unless modules were pickled.
        prefix: what all names began with, and is taken off.
        left_out: what of the file is not taken, a network's parts as ``decoder.*``.
        computed: whether positions are no array of the file but computed.
    """

    format: str
    entry: str | None = None
    entries: tuple[str, ...] = ()
    modules: Mapping[str, ModuleInfo] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    computed: bool = False

    @property
    def class_name(self) -> str | None:
        """Class of the root module; None where the file names none."""
        return self.modules[""].class_name if self.modules else None

    @property
    def init_args(self) -> tuple:
        """What the root module was made with, by position."""
        return self.modules[""].init_args if self.modules else ()

    @property
    def init_kwargs(self) -> Mapping[str, Any]:
        """What the root module was made with, by name."""
        return self.modules[""].init_kwargs if self.modules else {}

    def __str__(self) -> str:
        """Say it in a line."""
        text = self.format
        if self.class_name:
            text += f", {self.class_name}"
        if self.entry is not None:
            others = [name for name in self.entries if name != self.entry]
            text += f", entry {self.entry!r}" + (f" (also has {', '.join(others)})" * bool(others))
        if self.prefix:
            text += f", names without {self.prefix!r}"
        if self.left_out:
            text += f", without {_listed(list(self.left_out))}"
        return text


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """Tensors of a weight file by their keys; nothing is read before it is asked for.

    Attributes:
        path: the file.
        tensors: the chosen state dict, in the file's order; those made of several are an `Array`.
        metadata: plain data of everything else in it: the other entries of a training checkpoint
            (their tensors as `LazyTensor`), a safetensors file's own metadata.
        description: format, chosen entry, classes.
    """

    path: Path
    tensors: Mapping[str, LazyTensor | Array]
    metadata: Mapping[str, Any]
    description: Description


def from_object(file: WeightFile, form: str, root: Any, entry: str | None) -> WeightSource:
    """Find the state dicts in what a pickle holds and choose one.

    Args:
        file: the file, for messages.
        form: its format, for the description.
        root: what the interpreter returned.
        entry: key of the state dict to take; None takes the averaged weights (``ema``) before the
            raw ones.

    Raises:
        UserError: no state dict in it, no such entry, or several that say nothing of themselves.
    """
    plain = Plain(file)
    if isinstance(root, ObjectRecord) or _is_state_dict(root):
        if entry is not None:
            raise file.refused(f"is one state dict and has no entry {entry!r}", "name no entry")
        tensors, modules, rest = _taken(file, root, plain)
        return WeightSource(file.path, tensors, rest, Description(form, modules=modules))
    if not isinstance(root, dict):
        raise file.refused(f"holds {_kind(root)} and no state dict", RESAVE)
    candidates = _candidates(root)
    if not candidates and entry is None and _has_tensors(root):
        # Weights with the state of an optimiser among them, not beside them.
        tensors, modules, rest = _taken(file, root, plain)
        return WeightSource(file.path, tensors, rest, Description(form, modules=modules))
    chosen = _choose(file, list(candidates), [str(name) for name in root], entry)
    tensors, modules, rest = _taken(file, candidates[chosen], plain)
    metadata = {name: plain(value, str(name)) for name, value in root.items() if name != chosen}
    if rest:
        metadata[chosen] = rest
    # An average without names (a list of arrays) cannot be taken: that the raw weights are is said.
    nameless = [f"{one}, which has no names" for one in PREFERRED if one in root]
    left_out = tuple(nameless) if chosen not in PREFERRED else ()
    description = Description(form, chosen, tuple(candidates), modules, left_out=left_out)
    return WeightSource(file.path, tensors, metadata, description)


def _candidates(root: dict) -> dict[str, Any]:
    """Return the state dicts in what a file holds, those one level deeper where it has no other."""
    found = {name: value for name, value in root.items() if _is_candidate(name, value)}
    if found:
        return found
    return {
        f"{outer}.{name}": value
        for outer, inside in root.items()
        if type(outer) is str and outer not in STATES and type(inside) is dict
        for name, value in inside.items()
        if _is_candidate(name, value)
    }


def _has_tensors(root: dict) -> bool:
    names = [name for name, value in root.items() if _is_tensor(value)]
    return len(names) > 1 and all(type(name) is str for name in root)


def _choose(file: WeightFile, candidates: list[str], keys: list[str], entry: str | None) -> str:
    if entry is not None:
        if entry not in candidates:
            raise file.refused(
                f"has no state dict under {entry!r}", f"its entries are {_listed(candidates)}"
            )
        return entry
    for wanted in (*PREFERRED, *RAW):
        for name in candidates:
            if name.rpartition(".")[2] == wanted:
                return name
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise file.refused(
            f"holds several state dicts ({_listed(candidates)})", "name one of them as the entry"
        )
    raise file.refused(f"holds no state dict; its keys are {_listed(keys)}", RESAVE)


def _listed(names: list[str]) -> str:
    shown = ", ".join(ascii(name[:80])[1:-1] for name in names[:12])
    return (shown + ", ..." * (len(names) > 12)) or "none"


def _kind(value: Any) -> str:
    return {TensorRecord: "a single tensor", ArrayRecord: "a single array"}.get(
        type(value), f"data of type {type(value).__name__}"
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRecord | ArrayRecord)


def _is_state_dict(value: Any) -> bool:
    """Say whether ``value`` maps names to tensors; numbers beside them are let through."""
    if type(value) is not dict or not any(map(_is_tensor, value.values())):
        return False
    return all(type(name) is str for name in value) and all(
        _is_tensor(item) or item is None or type(item) in (int, float, bool, str)
        for item in value.values()
    )


def _is_candidate(name: Any, value: Any) -> bool:
    if type(name) is not str:
        return False
    module = isinstance(value, ObjectRecord) and "_parameters" in value.state
    return module or _is_state_dict(value)


def _taken(
    file: WeightFile, found: Any, plain: "Plain"
) -> tuple[dict[str, LazyTensor], dict[str, ModuleInfo], dict[str, Any]]:
    """Return tensors, modules and whatever else is in a state dict or module."""
    modules: dict[str, ModuleInfo] = {}
    if isinstance(found, ObjectRecord):
        items = dict(_module_items(file, found, modules, plain))
        rest = {}
    else:
        items = {name: value for name, value in found.items() if _is_tensor(value)}
        rest = {name: plain(value, name) for name, value in found.items() if not _is_tensor(value)}
    tensors = {name: lazy(file, name, value) for name, value in items.items()}
    if not tensors:
        raise file.refused("holds no tensors", RESAVE)
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > MOST_EXPANSION * file.size + EXPANSION_ALLOWANCE:
        raise file.refused(
            f"has tensors of {total} bytes in all, stored in {file.size}: they are views expanded "
            "far beyond what they hold",
            RESAVE,
        )
    return tensors, modules, rest


def _module_items(
    file: WeightFile,
    module: ObjectRecord,
    modules: dict[str, ModuleInfo],
    plain: "Plain",
    path: tuple[str, ...] = (),
) -> Iterator[tuple[str, Any]]:
    """Yield what a module's ``state_dict()`` has, in its order."""
    state = module.state
    where = ".".join(path)
    plain.spend(where, MODULE_COST + len(state), len(path))
    parts = {
        part: state.get(part, {})
        for part in ("_parameters", "_buffers", "_modules", "_init_kwargs")
    }
    transient = state.get("_non_persistent_buffers_set", set())
    if (
        not all(isinstance(value, dict) for value in parts.values())
        or any(type(name) is not str for part in parts.values() for name in part)
        or type(transient) is not set
    ):
        raise file.refused(f"has a module at {where!r} whose parts are not dictionaries", RESAVE)
    init_args = plain(state.get("_init_args", ()), where)
    modules[where] = ModuleInfo(
        module.class_name,
        tuple(init_args) if isinstance(init_args, list) else (),
        plain(parts["_init_kwargs"], where),
        {
            name: value
            for name, value in state.items()
            if type(name) is str
            and not name.startswith("_")
            and (value is None or type(value) in (bool, int, float, str))
        },
    )
    arrays = parts["_parameters"] | {
        name: value for name, value in parts["_buffers"].items() if name not in transient
    }
    for name, value in arrays.items():
        if value is None:
            continue
        if not _is_tensor(value):
            raise file.refused(f"has no tensor at {where}.{name}, but {_kind(value)}", RESAVE)
        key = ".".join((*path, name))
        plain.spend(key)
        yield key, value
    for name, child in parts["_modules"].items():
        if isinstance(child, ObjectRecord):
            yield from _module_items(file, child, modules, plain, (*path, name))
        elif child is not None:
            raise file.refused(f"has no module at {where}.{name}, but {_kind(child)}", RESAVE)


def lazy(file: WeightFile, name: str, value: TensorRecord | ArrayRecord) -> LazyTensor:
    """Return a tensor of a pickle under its name."""
    if isinstance(value, TensorRecord):
        return LazyTensor(
            name,
            value.shape,
            value.dtype,
            value.storage.place(file),
            value.offset,
            value.strides,
            value.storage.swapped,
        )
    if value.dtype is None or value.stored is None:
        raise file.refused(f"has an array at {name} whose content is missing", RESAVE)
    strides = contiguous_strides(value.shape)
    if value.fortran:
        strides = tuple(math.prod(value.shape[:axis]) for axis in range(len(value.shape)))
    return LazyTensor(name, value.shape, value.dtype, value.stored, 0, strides, value.swapped)


class Plain:
    """Turns what a pickle holds into dictionaries, lists, scalars and lazy tensors."""

    def __init__(self, file: WeightFile):
        self.file = file
        self.left = MOST_VALUES

    def spend(self, place: str, count: int = 1, depth: int = 0) -> None:
        """Count values before they are copied, long names as several."""
        self.left -= count + len(place) // 100
        if depth > DEEPEST or self.left < 0:
            raise self.file.refused(
                f"has data that expands without end at {place[:80]!r}: more than {DEEPEST} levels, "
                f"or {MOST_VALUES} values",
                RESAVE,
            )

    def __call__(self, value: Any, place: str, depth: int = 0) -> Any:
        """Return ``value`` as plain data; tensors in it are named after their place in it."""
        self.spend(place, 1, depth)
        match value:
            case TensorRecord() | ArrayRecord():
                return lazy(self.file, place, value)
            case ObjectRecord():
                state = self(value.state, place, depth + 1)
                return {"class_name": value.class_name, "state": state}
            case dict():
                return {
                    key: self(item, f"{place}.{key}" if place else str(key), depth + 1)
                    for key, item in value.items()
                }
            case list() | tuple():
                return [
                    self(item, f"{place}.{index}", depth + 1) for index, item in enumerate(value)
                ]
            case set():
                return sorted(value, key=str)
            case Allowed():
                return value.name
            case Span():
                return f"<{value.size} bytes>"
            case bytes():
                return f"<{len(value)} bytes>"
            case str() if len(value) > MOST_SHOWN:
                return f"<text of {len(value)} characters>"
            case None | bool() | int() | float() | complex() | str():
                return value
        raise self.file.refused(f"has {type(value).__name__} at {place[:80]!r}", RESAVE)
