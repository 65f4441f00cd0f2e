"""Mutated weight files and arbitrary pickles are read or refused, and nothing else happens.

Each file is a few hundred bytes and is removed once it was looked at; limits are low, so that what
would grow is refused after a few kilobytes.
"""

import argparse
import pickle
import struct
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from tables.everyday import few
from weight_files import writers as w

from guidestar.core.errors import UserError
from guidestar.models.checkpoints.readers import open_weights
from guidestar.models.checkpoints.readers.allowed import NAMES
from guidestar.models.checkpoints.readers.pickle_vm import OPERATIONS

MOST_SECONDS = 10
MOST_MEMORY = 3 << 20
LOWERED = {
    "pickle_machine.MOST_OPCODES": 20_000,
    "pickle_machine.MOST_MEMORY": 1 << 20,
    "pickle_machine.MOST_MEMOS": 10_000,
    "pickle_machine.LONGEST_TEXT": 1 << 16,
    "weight_source.MOST_VALUES": 10_000,
    "weight_source.EXPANSION_ALLOWANCE": 1 << 18,
}
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(QUICK, max_examples=1500, derandomize=False)

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.arange(3, dtype=np.float16),
    "b": np.ones((2, 1, 2), ml_dtypes.bfloat16),
}
INSTRUCTIONS, STORAGES = w.state_dict(ARRAYS)
TENSORS = {name: w.pickled_tensor(array) for name, array in ARRAYS.items()}
CHECKPOINT = {
    "ema": {"w": np.arange(6.0).reshape(2, 3)},
    "args": argparse.Namespace(lr=np.float64(1e-4), name="DiT", betas=(0.9, 0.999)),
    "step": 3,
}


@pytest.fixture(autouse=True, scope="module")
def low_limits():
    with pytest.MonkeyPatch.context() as patch:
        for place, value in LOWERED.items():
            patch.setattr(f"guidestar.models.checkpoints.readers.{place}", value)
        yield


def archive(path, content):
    """Write a torch archive around a pickle, so that its checksum holds."""
    w.write_zip(path, w.zip_members(content, STORAGES))


def archive_bytes(path):
    w.write_torch_zip(path, ARRAYS)
    return path.read_bytes()


def plain(path, content):
    path.write_bytes(content)


# What is mutated, and how the file is made of it.
TARGETS = {
    "zip": (archive_bytes, plain),
    "pickle in zip": (lambda path: w.program(INSTRUCTIONS), archive),
    "legacy": (lambda path: w.torch_legacy(ARRAYS), plain),
    "modules": (lambda path: w.program(w.table({"ema": w.module("Net", TENSORS)})), plain),
    "checkpoint": (lambda path: pickle.dumps(CHECKPOINT, 4), plain),
    "safetensors": (lambda path: save(ARRAYS), plain),
}

PLACES = st.integers(0, 9999)  # in ten thousandths of the file
# Sizes and counts are where readers fail: numbers at the ends of their ranges.
FRAGMENTS = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from([struct.pack("<I", n) for n in (0, 1, 1 << 16, (1 << 32) - 1)]),
    st.sampled_from([struct.pack("<q", n) for n in (-1, 1 << 16, -(1 << 63))]),
    st.sampled_from([bytes([code]) for code in sorted(OPERATIONS)]),
    st.sampled_from([b"-", b"9", b'"', b"{", b"[", b"]", b"../"]),
)
KINDS = ["flip", "cut", "insert", "replace", "remove", "repeat"]
MUTATIONS = st.lists(
    st.tuples(st.sampled_from(KINDS), PLACES, FRAGMENTS),
    min_size=1,
    max_size=4,
)


def mutated(content, mutations):
    for kind, place, fragment in mutations:
        at = place * len(content) // 10_000
        before, after = content[:at], content[at:]
        match kind:
            case "flip" if after:
                content = before + bytes([after[0] ^ (fragment[0] or 1)]) + after[1:]
            case "cut":
                content = before
            case "insert":
                content = before + fragment + after
            case "replace":
                content = before + fragment + after[len(fragment) :]
            case "remove":
                content = before + after[len(fragment) * 4 :]
            case "repeat":
                content = before + after[:64] + after
    return content


def require_read_or_refused(path):
    """Open a file and read all of it; True where it was not refused."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        source = open_weights(path)
        for name, tensor in source.tensors.items():
            array = tensor.read()
            assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
            assert array.flags.c_contiguous and array.dtype.isnative and tensor.name == name
        assert str(source.description)
        return True
    except UserError as refusal:
        assert str(refusal).startswith(f"{path}: ")
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        path.unlink()
        assert peak < MOST_MEMORY and time.monotonic() - started < MOST_SECONDS


def mutations_are_harmless(target, path):
    make, write = TARGETS[target]
    original = make(path)
    write(path, original)
    assert require_read_or_refused(path)

    def check(mutations):
        write(path, mutated(original, mutations))
        require_read_or_refused(path)

    return given(MUTATIONS)(check)


@pytest.mark.longer
@pytest.mark.parametrize("target", few(1, TARGETS))
def test_mutated_files(target, tmp_path):
    QUICK(mutations_are_harmless(target, tmp_path / "weights"))()


@pytest.mark.longer
@pytest.mark.parametrize("target", TARGETS)
def test_many_mutated_files(target, tmp_path):
    LONG(mutations_are_harmless(target, tmp_path / "weights"))()


NUMBERS = st.one_of(st.integers(-2, 8), st.sampled_from([1 << 16, 1 << 32, -(1 << 63), 1 << 70]))
LEAVES = [
    NUMBERS.map(w.whole),
    st.sampled_from(["0", "ema", "storage", "cpu", "_modules", "f4", "latin1", "<"]).map(w.text),
    st.sampled_from([b"", bytes(16), w.torch_legacy(ARRAYS)]).map(w.data),
    st.sampled_from(sorted(NAMES)).map(lambda name: w.dotted(*name)),
    st.sampled_from([pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.EMPTY_SET]),
    st.sampled_from([pickle.BINFLOAT + struct.pack(">d", x) for x in (0.5, np.nan, np.inf)]),
    st.sampled_from([pickle.BINGET + bytes([n]) for n in range(4)]),
]
CODES = sorted(OPERATIONS)


def grown(inner):
    """Return pickles made of pickles: containers, calls of every name, states, references."""
    parts = st.lists(inner, max_size=5)
    keys = st.sampled_from(["ema", "model", "state", "type", "class_name", "_parameters", "x"])
    calls = st.builds(
        lambda name, arguments: w.call(*name, *arguments), st.sampled_from(sorted(NAMES)), parts
    )
    geometry = st.lists(NUMBERS, max_size=3)
    return st.one_of(
        parts.map(lambda items: w.bundle(*items)),
        parts.map(lambda items: pickle.MARK + b"".join(items) + pickle.LIST),
        st.dictionaries(keys, inner, max_size=4).map(w.table),
        calls,
        st.builds(lambda target, state: target + state + pickle.BUILD, calls, inner),
        st.builds(w.tensor, inner, geometry, geometry, NUMBERS),
        st.builds(w.module, keys, st.dictionaries(keys, inner, max_size=2)),
        st.builds(lambda item, n: item + pickle.BINPUT + bytes([n]), inner, st.integers(0, 3)),
        st.builds(lambda item, code: item + bytes([code]), inner, st.sampled_from(CODES)),
    )


def stored_tensors(*more):
    """Return storages for a file with ARRAYS, and views of them that fit or do not."""
    kinds = [w.STORAGE_NAMES[array.dtype] for array in ARRAYS.values()]
    sizes = [array.size for array in ARRAYS.values()]
    references = [
        w.storage(str(key), kind, size, *more)
        for key, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    shapes = st.lists(st.integers(-1, 3), max_size=3)
    offsets = st.integers(-1, 3)
    return references, st.builds(
        lambda stored, shape, offset: w.tensor(stored, shape, offset=offset),
        st.sampled_from(references),
        shapes,
        offsets,
    )


def write_legacy(path, content):
    sizes = [array.size for array in ARRAYS.values()]
    stored = {key: (size, STORAGES[key]) for key, size in zip(STORAGES, sizes, strict=True)}
    path.write_bytes(w.legacy(content, stored))


def programs(references, tensors):
    """Return arbitrary pickles; ``references`` are in each, as files of old torch need them all."""
    memo = b"".join(pickle.NONE + pickle.BINPUT + bytes([n]) + pickle.POP for n in range(4))
    start = memo + w.bundle(*references) + pickle.POP
    leaves = st.one_of(*LEAVES, tensors, tensors, tensors)
    return st.recursive(leaves, grown, max_leaves=20).map(
        lambda part: w.program(start + part, protocol=4)
    )


CONTAINERS = {
    "pickle": (programs([], st.sampled_from(sorted(TENSORS.values()))), plain),
    "zip": (programs(*stored_tensors()), archive),
    "legacy": (programs(*stored_tensors(pickle.NONE)), write_legacy),
}


def programs_are_harmless(container, path):
    contents, write = CONTAINERS[container]

    def check(content):
        write(path, content)
        require_read_or_refused(path)

    return given(contents)(check)


@pytest.mark.parametrize("container", CONTAINERS)
def test_arbitrary_pickles(container, tmp_path):
    QUICK(programs_are_harmless(container, tmp_path / "weights"))()


@pytest.mark.longer
@pytest.mark.parametrize("container", CONTAINERS)
def test_many_arbitrary_pickles(container, tmp_path):
    LONG(programs_are_harmless(container, tmp_path / "weights"))()
