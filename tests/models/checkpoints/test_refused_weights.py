"""Files that are no weights are refused by name: nothing in them is loaded, grows or hangs."""

import copyreg
import importlib
import pickle
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from weight_files import writers as w
from weight_files.refused_files import FILES
from weight_files.refused_names import NAMED
from weight_files.refused_writers import MODULE, NAME, Refused, writes

from guidestar.core.errors import UserError
from guidestar.models.checkpoints.readers import open_weights, require_finite
from guidestar.models.checkpoints.readers.allowed import NAMES
from guidestar.models.checkpoints.readers.lazy_tensor import LazyTensor, Stored, geometry_problem
from guidestar.models.checkpoints.readers.pickle_machine import Budget
from guidestar.models.checkpoints.readers.weight_file import WeightFile

READERS = "guidestar.models.checkpoints.readers"
MOST_SECONDS = 10
# As they are; a test may lower them, nothing may raise them.
LIMITS = {
    "pickle_machine.MOST_OPCODES": 1_000_000,
    "pickle_machine.MOST_MEMORY": 128 << 20,
    "pickle_machine.MOST_MEMOS": 500_000,
    "pickle_machine.LONGEST_TEXT": 1 << 24,
    "pickle_machine.LONGEST_NAME": 512,
    "pickle_machine.INTEGER_KEY_BITS": 64,
    "pickle_vm.DEEPEST_MARKS": 1000,
    "pickle_vm.LONGEST_INTEGER": 256,
    "pickle_vm.LONGEST_LINE": 1 << 16,
    "weight_source.DEEPEST": 64,
    "weight_source.MOST_VALUES": 500_000,
    "weight_source.MOST_EXPANSION": 8,
    "weight_source.EXPANSION_ALLOWANCE": 16 << 20,
    "zip_directory.MOST_MEMBERS": 200_000,
    "zip_directory.LARGEST_DIRECTORY": 64 << 20,
    "safetensors_file.LARGEST_HEADER": 8 << 20,
    "safetensors_file.DEEPEST": 8,
    "torch_zip.LARGEST_CHECKED": 64 << 20,
    "lazy_tensor.MOST_AXES": 16,
}


def limit(monkeypatch, limits):
    for place, value in limits.items():
        monkeypatch.setattr(f"{READERS}.{place}", value)


@pytest.mark.parametrize("name", FILES)
def test_refused_with_the_file_and_the_reason(name, tmp_path, monkeypatch):
    path, case = tmp_path / "weights.pt", FILES[name]
    case.write(path)
    assert not path.is_file() or path.stat().st_size < 10_000
    limit(monkeypatch, case.limits)
    started = time.monotonic()
    with pytest.raises(UserError, match=case.refusal) as refusal:
        open_weights(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ") and "; " in message and len(message) < 1500
    assert time.monotonic() - started < MOST_SECONDS


@pytest.mark.parametrize("place", LIMITS)
def test_limits_are_as_strict_as_they_were(place):
    module, name = place.split(".")
    assert getattr(importlib.import_module(f"{READERS}.{module}"), name) <= LIMITS[place]


def test_a_budget_is_the_limits():
    budget = Budget()
    assert [budget.opcodes, budget.memory, budget.memos] == list(LIMITS.values())[:3]


def small(write, refusal):
    """Return what meets a limit of memory, of which a few kilobytes of instructions are enough."""
    return Refused(writes(write), refusal, {"pickle_machine.MOST_MEMORY": 1 << 20})


GROWING = {
    "sets": small(w.program(pickle.EMPTY_SET * 8000), "fill the memory"),
    "lists": small(w.program(pickle.EMPTY_LIST * 16_000), "fill the memory"),
    "tables": small(w.program(pickle.EMPTY_DICT * 16_000), "fill the memory"),
    "marks": small(w.program((pickle.MARK + pickle.TUPLE) * 15_000), "fill the memory"),
    "memos": small(w.program(pickle.NONE + pickle.MEMOIZE * 15_000, protocol=4), "fill the mem"),
    "keys": small(
        w.program(
            pickle.EMPTY_DICT + pickle.MARK,
            *(w.text(f"{n:04d}") + pickle.NONE for n in range(8000)),
            pickle.SETITEMS,
        ),
        "fill the memory",
    ),
    "tables of the same keys": small(
        w.program(
            *(w.text(f"{n:02d}") + pickle.BINPUT + bytes([n]) for n in range(100)),
            *(
                pickle.EMPTY_DICT + pickle.MARK,
                b"".join((pickle.BINGET + bytes([n])) * 2 for n in range(100)) + pickle.SETITEMS,
            )
            * 100,
        ),
        "fill the memory",
    ),
    "copies": small(
        w.program(
            w.call("builtins", "list") + pickle.MARK + pickle.NONE * 1000 + pickle.APPENDS,
            pickle.BINPUT + b"\0",
            w.call("builtins", "list", pickle.BINGET + b"\0") * 100,
        ),
        "fill the memory",
    ),
    "text": small(w.program(*(w.text("x" * 4000) for _ in range(60))), "fill the memory"),
}


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_is_refused_before_it_takes_more_than_is_set_aside(name, tmp_path, monkeypatch):
    path, case = tmp_path / "weights.pt", GROWING[name]
    case.write(path)
    limit(monkeypatch, case.limits)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=case.refusal):
            open_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * (1 << 20)


class Listing(pickle.Unpickler):
    """Python's own reader, with what it is asked to load listed and not loaded."""

    def __init__(self, file):
        super().__init__(file)
        self.asked = []

    def find_class(self, module, name):
        self.asked.append((module, name))
        return Inert


class Inert:
    """Takes anything and does nothing."""

    def __new__(cls, *arguments, **keywords):
        return object.__new__(cls)

    def __call__(self, *arguments):
        return self

    def __setstate__(self, state):
        pass


@pytest.mark.parametrize("name", NAMED)
def test_python_would_load_the_name_that_is_refused(name, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(NAMED[name])
    with path.open("rb") as file:
        reader = Listing(file)
        reader.load()
    assert any(NAME in asked or MODULE in module for module, asked in reader.asked)
    assert not any(one in NAMES for one in reader.asked if NAME in one[1])


def test_the_list_has_data_alone():
    modules = {module.partition(".")[0] for module, _ in NAMES}
    assert modules == {
        *("torch", "numpy", "collections", "builtins", "__builtin__", "argparse"),
        *("pathlib", "_codecs", "dnnlib", "torch_utils"),
    }
    built_in = {name for module, name in NAMES if module in ("builtins", "__builtin__")}
    assert built_in == {
        *("dict", "list", "tuple", "set", "frozenset", "complex", "bytes"),
        *("int", "float", "bool", "str"),
    }
    assert {one for one in NAMES if one[0] in ("_codecs", "torch.storage")} >= {
        ("_codecs", "encode")
    }
    assert ("torch.storage", "_load_from_bytes") not in NAMES  # in pickles of modules alone


def test_a_name_in_the_registry_of_extensions_is_not_looked_up(tmp_path):
    copyreg.add_extension(MODULE, NAME, 240)
    try:
        path = tmp_path / "weights.pt"
        path.write_bytes(w.program(pickle.EXT1 + b"\xf0" + w.bundle(w.text("x")) + b"R"))
        with pytest.raises(UserError, match="number in a registry"):
            open_weights(path)
        with pytest.raises(ModuleNotFoundError, match=MODULE):
            pickle.loads(path.read_bytes())
    finally:
        copyreg.remove_extension(MODULE, NAME, 240)


def test_a_state_that_names_a_method_is_data(tmp_path):
    namespace = w.call("argparse", "Namespace") + w.table({"__setstate__": w.text("x")}) + b"b"
    items = {"ema": w.table({"w": w.pickled_tensor(np.ones(1, np.float32))}), "args": namespace}
    path = tmp_path / "weights.pt"
    path.write_bytes(w.program(w.table(items)))
    assert open_weights(path).metadata == {"args": {"__setstate__": "x"}}


@pytest.mark.parametrize(
    ("shape", "strides", "problem"),
    [
        ((2, 2), (2, 1), None),
        ((0, 5), (0, 0), None),
        # Products beyond 64 bits, which an integer of a machine would wrap to something small.
        ((1 << 40, 1 << 40, 1 << 40), (1 << 60, 1 << 40, 1), "reaches element"),
        ((1 << 62, 4, 4), (16, 4, 1), "reaches element"),
        ((1 << 70,), (1,), "beyond 64 bits"),
        ((4,), (1 << 63,), "beyond 64 bits"),
    ],
)
def test_what_a_view_reaches_is_computed_without_wrapping(shape, strides, problem):
    found = geometry_problem(4, 0, shape, strides)
    assert problem in found if problem else found is None


def test_how_large_an_array_is_does_not_wrap():
    stored = Stored(WeightFile(Path("x"), 1, 0), 0, 0)
    tensor = LazyTensor("x", (1 << 62, 4, 4), np.dtype(np.float32), stored, 0, (16, 4, 1))
    assert tensor.size == 1 << 66 and tensor.nbytes == 1 << 68


def test_weights_with_nan_are_read_and_refused_by_who_needs_numbers(tmp_path):
    array = np.array([1, np.nan], np.float32)
    source = open_weights(w.write_torch_zip(tmp_path / "weights.pt", {"blocks.0.bias": array}))
    tensor = source.tensors["blocks.0.bias"]
    with pytest.raises(UserError, match=re.escape("blocks.0.bias has 1 of 2 values")):
        require_finite(tensor.name, tensor.read())


def test_the_unreadable_is_refused(tmp_path):
    with pytest.raises(UserError, match="embedded null"):
        open_weights("a\0b")
    with pytest.raises(UserError, match="Not a directory"):
        (tmp_path / "file").write_bytes(b"x")
        open_weights(tmp_path / "file" / "below")
