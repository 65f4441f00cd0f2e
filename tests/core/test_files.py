"""Files, whole or not at all, and what they say of each other."""

import hashlib
import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from guidestar.commands.config import trained
from guidestar.core import files
from guidestar.core.errors import UserError
from guidestar.core.files import digest_of_parts
from guidestar.data.source import content_digest
from guidestar.input_pipeline import load_source
from guidestar.runtime.identity import described

ROWS = np.arange(24, dtype=np.float32).reshape(4, 6)
LAYOUTS = {
    "row by row": ROWS,
    "transposed": ROWS.T,
    "column by column": np.asfortranarray(ROWS),
    "strided": ROWS[::2, 1::3],
    "backwards": ROWS[::-1, ::-1],
    "broadcast": np.broadcast_to(ROWS[0], (3, 6)),
    "three axes turned": ROWS.reshape(2, 2, 6).transpose(2, 0, 1),
    "empty": np.zeros((0, 3), np.float32),
    "one number": np.float32(3),
    "whole numbers": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    "half": ROWS.astype(np.float16).T,
}


def test_arrays_of_any_layout_are_read_back_as_they_are(tmp_path):
    path = tmp_path / "arrays.safetensors"
    digest = files.write_arrays(path, LAYOUTS)
    read = load_file(path)
    assert set(read) == set(LAYOUTS) and digest == files.sha256(path)
    for name, array in LAYOUTS.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)
        assert read[name].dtype == np.asarray(array).dtype


def test_sixteen_bit_floats_keep_their_bits(tmp_path):
    path, array = tmp_path / "a.safetensors", ROWS.astype(ml_dtypes.bfloat16).T
    files.write_arrays(path, {"a": array})
    np.testing.assert_array_equal(load_file(path)["a"], array)


def test_an_array_that_is_read_later_is_read_once(tmp_path):
    calls = []

    def read():
        calls.append(1)
        return ROWS.T

    described = files.Array(ROWS.T.shape, np.dtype(np.float32), read)
    files.write_arrays(tmp_path / "a.safetensors", {"a": described})
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["a"], ROWS.T)
    assert calls == [1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a"]), "a is <U1: array files keep float16"),
        (np.array([1j]), "a is complex128"),
        (files.Array((2, 2), np.dtype(np.float32), lambda: ROWS), r"a was to have shape \(2, 2\)"),
    ],
)
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, array, message):
    path = tmp_path / "a.safetensors"
    files.write_bytes(path, b"before")
    with pytest.raises(UserError, match=message):
        files.write_arrays(path, {"a": array})
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), files.replacing(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_one_line_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="writing .* failed: .* run the same command again"):
        files.write_text(tmp_path / "file" / "a.txt", "text")


def test_a_pair_is_known_by_the_digest_of_its_arrays(tmp_path):
    path = tmp_path / "set.safetensors"
    files.write_pair(path, {"a": ROWS.T}, {"count": 4})
    sidecar = json.loads(files.sidecar_path(path).read_text())
    assert sidecar["count"] == 4
    files.require_pair(path, sidecar)
    files.require_pair(path, {"count": 4})  # of a time without digests
    files.write_arrays(path, {"a": ROWS})
    with pytest.raises(UserError, match=r"set\.json is of other arrays than those in .*set\.safe"):
        files.require_pair(path, sidecar)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "../a",
        "a\\b",
        "a\0b",
        "/a",
        "a'b",
        'a"b',
        "a`b",
        "a\nb",
        "a\udcff",
    ],
)
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(UserError, match="import.name is .*: give the name of a file"):
        files.safe_name(name, "import.name")


@pytest.mark.parametrize("name", ["a", "a.b", "DiT-XL_2", "ünï", "with space", "a..b"])
def test_other_names_pass(name):
    assert files.safe_name(name, "name") == name


def test_a_large_file_is_read_again_once_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 4)
    path, read = tmp_path / "large", []
    plain = files._sha256
    monkeypatch.setattr(files, "_sha256", lambda path: read.append(path) or plain(path))
    path.write_bytes(b"12345678")
    first = files.sha256(path)
    assert files.sha256(path) == first and len(read) == 1
    path.write_bytes(b"87654321")
    os.utime(path, ns=(1, 1))
    assert files.sha256(path) != first and len(read) == 2


def test_a_tilde_is_home_everywhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GUIDESTAR_CACHE", raising=False)
    assert files.home("~/a") == tmp_path / "a"
    assert files.cache_folder() == tmp_path / ".cache/guidestar"
    monkeypatch.setenv("GUIDESTAR_CACHE", "~/elsewhere")
    assert files.cache_folder() == tmp_path / "elsewhere"
    assert files.cache_folder("~/chosen") == tmp_path / "chosen"


def test_json_that_cannot_be_read_says_what_to_do(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": [1, 2]})
    assert files.read_json(path, "") == {"b": 1, "a": [1, 2]}
    path.write_text("{")
    for missing in (path, tmp_path / "none.json"):
        with pytest.raises(UserError, match="cannot be read .*: write it again"):
            files.read_json(missing, "write it again")


def test_a_digest_of_data_looks_at_no_order_of_keys():
    assert files.digest_of({"a": 1, "b": [2]}) == files.digest_of({"b": [2], "a": 1})
    assert files.digest_of({"a": 1}) != files.digest_of({"a": 2})


@pytest.mark.parametrize("size", [0, 1, 15, 100, 10**6])
def test_a_sketch_tells_files_apart(size, tmp_path):
    data = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    (tmp_path / "a").write_bytes(data.tobytes())
    (tmp_path / "same").write_bytes(data.tobytes())
    one = files.sketch(tmp_path / "a")
    assert files.sketch(tmp_path / "same") == one and len(one) == 8 * files.SKETCH_BLOCKS
    for place in {0, size - 1} if size else ():
        other = data.copy()
        other[place] ^= 1
        (tmp_path / "b").write_bytes(other.tobytes())
        assert files.sketch(tmp_path / "b") != one


def test_digests_of_parts_are_those_of_their_bytes_in_a_row():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    wanted = hashlib.sha256("x\u00e9".encode() + b"yz" + array.T.copy().tobytes()).hexdigest()
    assert digest_of_parts(["x\u00e9", b"y", memoryview(b"z"), array.T]) == wanted
    for empty in ([], [np.zeros((0, 3))], [b""]):
        assert digest_of_parts(empty) == hashlib.sha256().hexdigest()
    assert digest_of_parts([np.float64(2.5)[None]]) == digest_of_parts([np.array(2.5)])


def test_digests_that_results_are_known_by_stay_what_they_were():
    tree = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": (np.uint8([1, 2]), np.zeros((0, 3))),
        "c": np.float64(2.5),
    }
    assert content_digest(tree).startswith("a7d54fe3445ebafc53692a6dd5655c53")
    params = {"x": {"y": np.arange(6.0).reshape(2, 3).T, "z": np.float32(1)}}
    assert trained._digest(params).startswith("6aba1c85cc3ac155069cb766f5b8a9f8")
    found = described(np.arange(100.0).reshape(10, 10).T)["sha256"]
    assert found.startswith("2d441acef1ce4a16f0ded5d099f8b428")
    digits = load_source("digits").identity()["content"]
    assert digits.startswith("d42886d613fc68e0ceb06adfa31cc5f7")
