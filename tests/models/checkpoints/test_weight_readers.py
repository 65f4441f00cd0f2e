"""Weight files are read in every format, type and layout, and no array before it is asked for."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from places import GOLDEN
from safetensors.numpy import save_file
from weight_files import writers as w

from guidestar.core.errors import UserError
from guidestar.models.checkpoints.readers import open_weights, require_finite

TORCH = GOLDEN / "torch_files"
HASHES = json.loads((GOLDEN / "weight_hashes.json").read_text())
BFLOAT16 = ml_dtypes.bfloat16


def read(source):
    return {name: tensor.read() for name, tensor in source.tensors.items()}


def some_arrays():
    random = np.random.default_rng(0)
    arrays = {
        dtype.name: random.integers(0, 2, (2, 3)).astype(dtype)
        if dtype.kind == "b"
        else (100 * random.random((2, 3))).astype(dtype)
        for dtype in w.STORAGE_NAMES
    }
    return arrays | {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 3), np.float16)}


def write_legacy(path, arrays):
    path.write_bytes(w.torch_legacy(arrays))


def write_module(path, arrays):
    tensors = {name: w.pickled_tensor(array) for name, array in arrays.items()}
    path.write_bytes(w.program(w.table({"ema": w.module("Net", tensors)}), protocol=4))


def write_safetensors(path, arrays):
    save_file(arrays, path, metadata={"format": "np"})


WRITERS = {
    "torch zip": w.write_torch_zip,
    "torch legacy": write_legacy,
    "pickle": write_module,
    "safetensors": write_safetensors,
}


@pytest.mark.parametrize("form", WRITERS)
def test_arrays_come_back_as_they_were_written(form, tmp_path):
    arrays = some_arrays()
    path = tmp_path / "weights.bin"  # formats are told from content: no suffix helps
    WRITERS[form](path, arrays)
    source = open_weights(path)
    assert source.description.format == form and source.path == path
    assert set(source.tensors) == set(arrays)
    for name, array in arrays.items():
        tensor = source.tensors[name]
        found = tensor.read()
        assert (tensor.name, tensor.shape, tensor.dtype) == (name, array.shape, array.dtype)
        assert (found.dtype, tensor.nbytes) == (array.dtype, array.nbytes)
        np.testing.assert_array_equal(found, array)
        found[...] = 0  # it is the caller's


@pytest.mark.parametrize("file", HASHES)
def test_published_layouts_hold_the_reference_arrays(file):
    source = open_weights(GOLDEN / file)
    assert list(source.tensors) == list(HASHES[file])  # in state_dict()'s order
    for name, (dtype, shape, digest) in HASHES[file].items():
        array = source.tensors[name].read()
        assert (str(array.dtype), list(array.shape)) == (dtype, shape)
        assert hashlib.sha256(array.tobytes()).hexdigest().startswith(digest)


def test_a_published_pickle_says_what_its_network_is():
    source = open_weights(GOLDEN / "edm2_unet_tiny.pkl")
    about = source.description
    assert (about.class_name, about.entry, about.entries) == ("Precond", "ema", ("ema",))
    assert about.init_args == ()
    assert about.init_kwargs == {
        "use_fp16": False,
        "img_resolution": 16,
        "img_channels": 3,
        "label_dim": 10,
        "model_channels": 32,
        "channel_mult": [1, 2],
        "num_blocks": 2,
        "attn_resolutions": [8],
        "channels_per_head": 16,
    }
    assert about.modules[""].attributes["sigma_data"] == 0.5
    assert about.modules["unet.emb_noise"].class_name == "MPConv"
    assert about.modules["unet.emb_noise"].init_args == (32, 64)
    assert source.metadata["dataset_kwargs"]["resolution"] == 16
    assert str(about) == "pickle, Precond, entry 'ema'"


@pytest.mark.parametrize("file", ["zip.pt", "legacy.pt", "no_checksums.pt"])
def test_files_of_torch_hold_what_torch_put_in(file):
    source = open_weights(TORCH / file)
    wanted = np.load(TORCH / "tensors.npz")
    found = read(source)
    assert list(found) == list(wanted)
    assert found["bfloat"].dtype == BFLOAT16
    for name in wanted:
        array = found[name].astype(np.float32) if name == "bfloat" else found[name]
        assert array.dtype == wanted[name].dtype and array.flags.c_contiguous
        np.testing.assert_array_equal(array, wanted[name])


def test_averaged_weights_are_taken_unless_others_are_named():
    ema = open_weights(TORCH / "checkpoint.pt")
    model = open_weights(TORCH / "checkpoint.pt", entry="model")
    assert str(ema.description) == "torch zip, entry 'ema' (also has model)"
    assert model.description.entry == "model"
    assert set(ema.tensors) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for name, array in read(model).items():
        np.testing.assert_array_equal(2 * array, ema.tensors[name].read())
    with pytest.raises(UserError, match=r"no state dict under 'opt'.*model, ema"):
        open_weights(TORCH / "checkpoint.pt", entry="opt")


def test_the_rest_of_a_checkpoint_is_plain_data():
    rest = open_weights(TORCH / "checkpoint.pt").metadata
    assert rest["train_steps"] == 3 and rest["opt"]["param_groups"][0]["lr"] == 1e-4
    np.testing.assert_array_equal(rest["opt"]["state"][0]["step"].read(), np.float32(1))
    assert rest["model"]["0.weight"].name == "model.0.weight"
    args = dict(rest["args"])
    np.testing.assert_array_equal(args.pop("noise").read(), np.arange(6.0).reshape(2, 3))
    assert args == {
        "model": "DiT-XL/2",
        "lr": 1e-4,
        "sizes": [2, 3],
        "dtype": "torch.float16",
        "device": "cuda:0",
        "shape": [1, 2],
    }


def test_modules_of_torch_are_listed_like_their_state_dict():
    source = open_weights(TORCH / "modules.pkl")
    assert list(source.tensors) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    kinds = {path: info.class_name for path, info in source.description.modules.items()}
    assert kinds == {"": "torch.nn.Sequential", "0": "torch.nn.Linear"} | {
        "1": "torch.nn.SiLU",
        "2": "torch.nn.Linear",
    }
    assert source.metadata == {"epoch": 2}


def test_a_module_lists_shared_children_twice_and_transient_buffers_not_at_all(tmp_path):
    ones, twos = (w.pickled_tensor(np.full(2, value, np.float32)) for value in (1, 2))
    child = w.module("Child", {"w": ones, "none": pickle.NONE})
    recalled = pickle.BINPUT + b"\x05", pickle.BINGET + b"\x05"
    root = w.module(
        "Root",
        {},
        {"a": child + recalled[0], "b": recalled[1]},
        _buffers=w.table({"kept": twos, "gone": twos}),
        _non_persistent_buffers_set=pickle.EMPTY_SET
        + (pickle.MARK + w.text("gone") + pickle.ADDITEMS),
        _init_kwargs=w.call(
            "dnnlib.util", "EasyDict", w.table({"scale": pickle.dumps(np.sqrt(0.5), 4)[11:-1]})
        ),
    )
    path = tmp_path / "net.pkl"
    path.write_bytes(w.program(root, protocol=4))
    source = open_weights(path)
    assert list(source.tensors) == ["kept", "a.w", "b.w"]
    assert source.description.init_kwargs == {"scale": np.sqrt(0.5)}
    with pytest.raises(UserError, match="one state dict"):
        open_weights(path, entry="ema")


def test_the_source_text_of_a_module_is_neither_run_nor_kept(tmp_path):
    path = tmp_path / "net.pkl"
    tensors = {"w": w.pickled_tensor(np.ones(2, np.float32))}
    text = "words that are no program"  # who runs them fails
    path.write_bytes(w.program(w.table({"ema": w.module("Net", tensors, source=text)})))
    source = open_weights(path)
    np.testing.assert_array_equal(source.tensors["w"].read(), [1, 1])
    assert text not in repr(source)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_numpy_arrays_in_a_pickle(protocol, tmp_path):
    arrays = {
        "rows": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "none": np.zeros((2, 0), np.int8),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps({"state_dict": arrays, "step": np.int64(7)}, protocol))
    source = open_weights(path)
    assert source.metadata == {"step": 7}
    for name, array in read(source).items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype.isnative and array.flags.c_contiguous


def test_big_endian_files(tmp_path):
    values = np.array([1.5, -2, 1e-3], np.float32)
    raw = values.astype(">f4").tobytes()
    stored = w.storage("0", "FloatStorage", 3)
    members = dict(w.zip_members(w.program(w.table({"x": w.tensor(stored, (3,))})), {"0": raw}))
    members["archive/byteorder"] = b"big"
    w.write_zip(tmp_path / "zip.pt", members.items())
    stored = w.storage("0", "FloatStorage", 3, pickle.NONE)
    content = w.program(w.table({"x": w.tensor(stored, (3,))}))
    (tmp_path / "legacy.pt").write_bytes(w.legacy(content, {"0": (3, raw)}, little=False))
    for name in ("zip.pt", "legacy.pt"):
        np.testing.assert_array_equal(open_weights(tmp_path / name).tensors["x"].read(), values)


def test_archives_with_64_bit_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 0)  # as if it were beyond 4 GB
    path = w.write_torch_zip(tmp_path / "x.pt", {"x": np.arange(3.0), "y": np.ones(2)})
    raw = path.read_bytes()
    assert b"PK\x06\x06" in raw
    path.write_bytes(raw[:-14] + b"\xff" * 12 + raw[-2:])  # what says "see the 64-bit end"
    found = read(open_weights(path))
    np.testing.assert_array_equal(found["x"], np.arange(3.0))
    np.testing.assert_array_equal(found["y"], np.ones(2))


def test_old_files_have_storages_that_are_parts_of_others(tmp_path):
    part = w.bundle(w.text("part"), w.whole(2), w.whole(3))
    items = {
        "all": w.tensor(w.storage("0", "ShortStorage", 6, pickle.NONE), (6,)),
        "part": w.tensor(w.storage("0", "ShortStorage", 6, part), (2,), offset=1),
    }
    values = np.arange(6, dtype=np.int16)
    path = tmp_path / "old.pt"
    path.write_bytes(w.legacy(w.program(w.table(items)), {"0": (6, values.tobytes())}))
    found = read(open_weights(path))
    np.testing.assert_array_equal(found["all"], values)
    np.testing.assert_array_equal(found["part"], [3, 4])


def test_bytes_that_are_no_bool_are_true(tmp_path):
    stored = w.table({"x": w.tensor(w.storage("0", "BoolStorage", 3), (3,))})
    path = w.write_zip(tmp_path / "x.pt", w.zip_members(w.program(stored), {"0": b"\0\1\7"}))
    found = open_weights(path).tensors["x"].read()
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found.view(np.uint8), [0, 1, 1])


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("model", "ema"), "ema"),
        (("state_dict", "other"), "state_dict"),
        (("generator",), "generator"),
    ],
)
def test_which_state_dict_is_taken(names, wanted, tmp_path):
    items = {
        name: w.table({"x": w.pickled_tensor(np.full(1, index, np.float32))})
        for index, name in enumerate(names)
    }
    path = tmp_path / "weights.pkl"
    path.write_bytes(w.program(w.table({"epoch": w.whole(2), **items}), protocol=4))
    source = open_weights(path)
    assert source.description.entry == wanted and source.description.entries == names
    assert source.tensors["x"].read() == names.index(wanted)


def test_a_damaged_array_is_found_when_it_is_read(tmp_path):
    path = w.write_torch_zip(tmp_path / "x.pt", {"good": np.ones(3), "bad": np.full(3, 7.0)})
    raw = path.read_bytes()
    path.write_bytes(raw.replace(np.full(3, 7.0).tobytes(), np.full(3, 7.5).tobytes()))
    source = open_weights(path)
    np.testing.assert_array_equal(source.tensors["good"].read(), np.ones(3))
    with pytest.raises(UserError, match=r"x\.pt: is damaged: bad does not have the checksum"):
        source.tensors["bad"].read()


def test_a_file_that_changes_or_goes_is_not_read_on(tmp_path):
    path = w.write_torch_zip(tmp_path / "x.pt", {"x": np.ones(3)})
    source = open_weights(path)
    os.utime(path, (0, 0))
    with pytest.raises(UserError, match="changed while it was being read"):
        source.tensors["x"].read()
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        source.tensors["x"].read()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, BFLOAT16, np.complex64])
def test_values_that_are_not_finite_are_refused_by_name(value, dtype):
    array = np.ones((3, 2), dtype)
    assert require_finite("x", array) is array
    array[1, 1] = value
    with pytest.raises(UserError, match=r"blocks\.0\.bias has 1 of 6 values that are NaN or inf"):
        require_finite("blocks.0.bias", array)
    require_finite("x", np.arange(3))


def large_arrays(megabytes):
    random = np.random.default_rng(0)
    return {f"w{i}": random.random((megabytes, 1 << 15), np.float32) for i in range(8)}


@pytest.mark.parametrize("form", WRITERS)
def test_converting_takes_little_more_memory_than_the_result(form, tmp_path):
    path = tmp_path / "weights"
    arrays = large_arrays(16)
    size = sum(array.nbytes for array in arrays.values())
    WRITERS[form](path, arrays)
    del arrays
    tracemalloc.start()
    try:
        source = open_weights(path)
        opened = tracemalloc.get_traced_memory()[1]
        result = {name: tensor.read().T.copy() for name, tensor in source.tensors.items()}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(array.nbytes for array in result.values()) == size
    assert opened < 1 << 20 and peak < 1.3 * size


CONVERT = """
import sys
from guidestar.models.checkpoints.readers import open_weights

def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
source = open_weights(sys.argv[1])
result = {name: tensor.read() for name, tensor in source.tensors.items()}
size = sum(array.nbytes for array in result.values())
print((resident("VmHWM") - before) / size)
"""


@pytest.mark.longer
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("form", WRITERS)
def test_peak_memory_of_a_process_that_reads_a_large_file(form, tmp_path):
    WRITERS[form](tmp_path / "weights", large_arrays(200))
    command = [sys.executable, "-c", CONVERT, str(tmp_path / "weights")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.3


def test_names_of_files_do_not_matter(tmp_path):
    shutil.copy(GOLDEN / "dit_tiny.pt", tmp_path / "x.safetensors")
    assert open_weights(tmp_path / "x.safetensors").description.format == "torch zip"
