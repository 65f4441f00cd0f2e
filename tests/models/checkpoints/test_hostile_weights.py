"""Hostile and broken weight files are refused by name: nothing runs, grows or hangs."""

import copyreg
import pickle
import re
import time
import tracemalloc

import numpy as np
import pytest
from weight_files import writers as w
from weight_files.hostile_files import FILES
from weight_files.hostile_names import ARMED
from weight_files.hostile_writers import CANARY

from guidestar.core.errors import UserError
from guidestar.models.checkpoints.readers import open_weights, require_finite

MOST_MEMORY = 192 << 20
MOST_SECONDS = 60
# Those that grow up to a limit before they are refused; measuring their memory takes seconds.
GROWING = [
    "many_instructions",
    "many_memos",
    "many_sets",
    "laughing_modules",
    "doubled_beside_an_entry",
]


def require_refused(name, path):
    FILES[name].write(path)
    started = time.monotonic()
    with pytest.raises(UserError, match=FILES[name].refusal) as refusal:
        open_weights(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ") and "; " in message and len(message) < 1500
    assert not (path.parent / CANARY).exists()
    assert time.monotonic() - started < MOST_SECONDS


def peak_while_refused(name, path):
    tracemalloc.start()
    try:
        require_refused(name, path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [name for name in FILES if name not in GROWING])
def test_refused_with_the_file_and_the_reason(name, tmp_path):
    # Some are written from a large buffer; what is read takes next to nothing.
    assert peak_while_refused(name, tmp_path / "weights.pt") < 64 << 20


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_is_refused(name, tmp_path):
    require_refused(name, tmp_path / "weights.pt")


@pytest.mark.longer
@pytest.mark.parametrize("name", GROWING)
def test_what_grows_is_refused_before_it_fills_the_memory(name, tmp_path):
    assert peak_while_refused(name, tmp_path / "weights.pt") < MOST_MEMORY


@pytest.mark.parametrize("name", ARMED)
def test_the_files_would_run_code_in_pickle(name, tmp_path):
    content = ARMED[name](tmp_path / "weights.pt")
    pickle.loads(content)
    assert (tmp_path / CANARY).exists()


def test_a_name_in_the_registry_of_extensions_is_not_called(tmp_path):
    copyreg.add_extension("os", "system", 240)
    try:
        path = tmp_path / "weights.pt"
        command = f"touch {tmp_path / CANARY}"
        path.write_bytes(w.program(pickle.EXT1 + b"\xf0" + w.bundle(w.text(command)) + b"R"))
        with pytest.raises(UserError, match="number in a registry"):
            open_weights(path)
        assert not (tmp_path / CANARY).exists()
        pickle.loads(path.read_bytes())
        assert (tmp_path / CANARY).exists()
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_a_state_that_names_a_method_is_data(tmp_path):
    namespace = w.call("argparse", "Namespace") + w.table({"__setstate__": w.text("x")}) + b"b"
    items = {"ema": w.table({"w": w.pickled_tensor(np.ones(1, np.float32))}), "args": namespace}
    path = tmp_path / "weights.pt"
    path.write_bytes(w.program(w.table(items)))
    assert open_weights(path).metadata == {"args": {"__setstate__": "x"}}


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
