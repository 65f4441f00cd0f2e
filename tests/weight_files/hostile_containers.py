"""Archives, arrays and headers that are broken or absurd, and files that are no weights."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from weight_files import writers as w
from weight_files.hostile_writers import Hostile, archive, in_zip, writes

HUGE = 1 << 62
SMALL = w.storage("0", "FloatStorage", 4)


def one_tensor(
    *arguments, elements: int = 4, kind: str = "FloatStorage", size: int = 16, **geometry
):
    """Write an archive with a tensor of the given geometry over ``size`` bytes of storage."""
    stored = w.storage("0", kind, elements)
    return in_zip(w.table({"x": w.tensor(stored, *arguments, **geometry)}), {"0": bytes(size)})


def zip_bytes(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    w.write_zip(buffer, members)
    return buffer.getvalue()


GOOD_ZIP = zip_bytes(
    *w.zip_members(
        w.program(w.table({"x": w.tensor(w.storage("0", "FloatStorage", 4), (4,))})),
        {"0": bytes(16)},
    )
)
GOOD_LEGACY = w.torch_legacy({"x": np.ones(4, np.float32)})
GOOD_PICKLE = w.program(w.table({"x": w.pickled_tensor(np.ones(4, np.float32))}), protocol=4)


def twice_named(path: Path) -> None:
    """An archive in which a member's name occurs a second time."""
    raw = zip_bytes(("a/data.pkl", w.program(w.table({}))), ("a/data.pkI", b"x"))
    path.write_bytes(raw.replace(b"a/data.pkI", b"a/data.pkl"))


def overlapping(path: Path) -> None:
    """An archive with a member inside another one's bytes."""
    inner = zip_bytes(("a/data/0", bytes(8)))
    inner = inner[: inner.index(b"PK\x01\x02")]
    raw = bytearray(zip_bytes(("a/data.pkl", inner), ("a/data/0", bytes(8))))
    place = raw.rindex(b"PK\x01\x02") + 42
    raw[place : place + 4] = struct.pack("<I", raw.index(inner))
    path.write_bytes(bytes(raw))


def safetensors(header: dict | bytes, content: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors file with any header at all."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + content


def entry(begin: int, end: int, shape=(4,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def a_folder(path: Path) -> None:
    path.mkdir()


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


CONTAINERS: dict[str, Hostile] = {
    "truncated_pickle": Hostile(writes(GOOD_PICKLE[:-40]), "cut short"),
    "truncated_legacy": Hostile(writes(GOOD_LEGACY[:-4]), "cut short"),
    "legacy_without_storages": Hostile(writes(GOOD_LEGACY[:100]), "cut short"),
    "legacy_of_another_size": Hostile(
        writes(
            w.legacy(
                w.program(w.storage("0", "FloatStorage", 9, pickle.NONE)), {"0": (4, bytes(16))}
            )
        ),
        "has 4 elements where its tensors expect 9",
    ),
    "legacy_of_other_keys": Hostile(
        writes(w.legacy(w.program(w.table({})), {"0": (0, b"")})), "other storages"
    ),
    "legacy_negative_storage": Hostile(
        writes(
            w.legacy(w.program(w.storage("0", "FloatStorage", -4, pickle.NONE)), {"0": (-4, b"")})
        ),
        "no type or size",
    ),
    "part_outside_its_storage": Hostile(
        writes(
            w.legacy(
                w.program(
                    w.storage("0", "FloatStorage", 4, w.bundle(w.text("v"), w.whole(2), w.whole(3)))
                ),
                {"0": (4, bytes(16))},
            )
        ),
        "a part that its storage does not have",
    ),
    # Broken archives.
    "truncated_zip": Hostile(writes(GOOD_ZIP[: len(GOOD_ZIP) // 2]), "without its end"),
    "zip_without_its_start": Hostile(writes(GOOD_ZIP[:4] + GOOD_ZIP[60:]), "damaged"),
    "zip_with_a_tail": Hostile(writes(GOOD_ZIP + b"tail"), "behind its end"),
    "zip_of_nothing": Hostile(writes(b"PK\x05\x06" + bytes(18)), "no data.pkl"),
    "zip_with_many_members": Hostile(
        writes(b"PK\x05\x06" + struct.pack("<4xHHIIH", 9, 9, HUGE >> 31, 0, 0)), "a directory of 9"
    ),
    "traversal": Hostile(
        archive(("../../evil/data.pkl", w.program(w.table({})))), "points outside the archive"
    ),
    "traversal_backslash": Hostile(archive(("a\\..\\b", b"")), "points outside the archive"),
    "absolute_name": Hostile(archive(("/etc/data.pkl", b"")), "points outside the archive"),
    "drive_name": Hostile(archive(("c:/data.pkl", b"")), "points outside the archive"),
    "zip_bomb": Hostile(
        archive(("archive/data.pkl", bytes(1 << 24)), compression=zipfile.ZIP_DEFLATED),
        "compressed member",
    ),
    "duplicate_member": Hostile(twice_named, "two members named"),
    "overlapping_members": Hostile(overlapping, "members that overlap"),
    "two_pickles": Hostile(archive(("a/data.pkl", b"x"), ("b/data.pkl", b"x")), "or several"),
    "numpy_archive": Hostile(archive(("x.npy", b"\x93NUMPY")), "numpy archive"),
    "torchscript": Hostile(
        archive(("a/data.pkl", b"x"), ("a/constants.pkl", b"x")), "TorchScript program"
    ),
    "strange_byte_order": Hostile(
        archive(("a/data.pkl", w.program(w.table({}))), ("a/byteorder", b"middle")), "byte order"
    ),
    "missing_storage": Hostile(in_zip(SMALL), "has no storage '0'"),
    "short_storage": Hostile(one_tensor((4,), size=12), "should have 4 elements"),
    "damaged_pickle_in_zip": Hostile(
        writes(GOOD_ZIP.replace(b"FloatStorage", b"HalfsStorage")), "checksum"
    ),
    # Absurd arrays.
    "overflowing_shape": Hostile(one_tensor((1 << 40, 1 << 40, 1 << 40)), "reaches element"),
    "shape_beyond_64_bits": Hostile(one_tensor((1 << 70,), (1,)), "beyond 64 bits"),
    "negative_shape": Hostile(one_tensor((-4,), (1,)), "negative"),
    "negative_stride": Hostile(one_tensor((4,), (-1,)), "negative"),
    "negative_offset": Hostile(one_tensor((4,), offset=-1), "an offset that is negative"),
    "offset_beyond_storage": Hostile(one_tensor((4,), offset=1), "reaches element 4"),
    "stride_beyond_storage": Hostile(one_tensor((2, 2), (3, 1)), "reaches element 4"),
    "many_axes": Hostile(one_tensor((1,) * 40), "40 axes"),
    "fewer_strides": Hostile(one_tensor((2, 2), (1,)), "2 axes with 1 strides"),
    "conjugate_view": Hostile(
        in_zip(
            w.call(
                "torch._utils",
                "_rebuild_tensor_v2",
                SMALL,
                w.whole(0),
                *[w.bundle(w.whole(1))] * 2,
                *[pickle.NONE] * 2,
                w.table({"conj": pickle.NEWTRUE}),
            ),
            {"0": bytes(16)},
        ),
        "conjugate or negative view",
    ),
    "expanded_without_end": Hostile(one_tensor((1 << 40,), (0,)), "expanded far beyond"),
    "storage_of_2_to_62": Hostile(one_tensor((4,), elements=HUGE), "should have"),
    "storage_of_minus_4": Hostile(one_tensor((4,), elements=-4), "reaches|should have"),
    "array_of_another_size": Hostile(
        writes(pickle.dumps({"x": np.arange(7.0)}, 2).replace(b"K\x07", b"K\x08")),
        "an array of shape",
    ),
    # Broken safetensors.
    "header_larger_than_file": Hostile(writes(safetensors({}, size=1 << 40)), "cut short"),
    "header_of_no_json": Hostile(writes(safetensors(b"{nonsense")), "not JSON"),
    "header_nested_deep": Hostile(
        writes(safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)), "nested too deep"
    ),
    "header_with_long_number": Hostile(
        writes(safetensors(b'{"a":' + b"9" * 5000 + b"}")), "not JSON"
    ),
    "header_twice_a_key": Hostile(
        writes(
            safetensors(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2), bytes(16))
        ),
        "names 'a' twice",
    ),
    "arrays_overlap": Hostile(
        writes(safetensors({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24))), "overlap"
    ),
    "arrays_leave_a_gap": Hostile(
        writes(safetensors({"a": entry(0, 16), "b": entry(20, 36)}, bytes(36))), "leave a gap"
    ),
    "arrays_outside": Hostile(writes(safetensors({"a": entry(0, 16)}, bytes(8))), "cut short"),
    "arrays_backwards": Hostile(writes(safetensors({"a": entry(16, 0)}, bytes(16))), "impossible"),
    "shape_of_another_size": Hostile(
        writes(safetensors({"a": entry(0, 16, (5,))}, bytes(16))), "shape"
    ),
    "shape_negative": Hostile(
        writes(safetensors({"a": entry(0, 16, (-2, -2))}, bytes(16))), "negative"
    ),
    "shape_of_text": Hostile(
        writes(safetensors({"a": entry(0, 16, ("4",))}, bytes(16))), "not whole numbers"
    ),
    "shape_overflowing": Hostile(
        writes(safetensors({"a": entry(0, 16, (1 << 62, 4, 4))}, bytes(16))), "in 16 bytes"
    ),
    "eight_bit_floats": Hostile(
        writes(safetensors({"a": entry(0, 4, dtype="F8_E4M3")}, bytes(4))), "as F8_E4M3"
    ),
    "header_of_a_list": Hostile(writes(safetensors({"a": [1]})), "does not say dtype"),
    "metadata_of_a_list": Hostile(writes(safetensors({"__metadata__": [1]})), "metadata"),
    "metadata_of_numbers": Hostile(
        writes(safetensors({"__metadata__": {"a": 1}, "a": entry(0, 16)}, bytes(16))), "library"
    ),
    "no_arrays": Hostile(writes(safetensors({})), "holds no tensors"),
    "bytes_behind": Hostile(writes(safetensors({"a": entry(0, 16)}, bytes(20))), "behind its last"),
    # No weights at all.
    "empty_file": Hostile(writes(b""), "is empty"),
    "one_byte": Hostile(writes(b"\x80"), "cut short"),
    "wrong_magic": Hostile(writes(b"MZ\x90\0" * 20), "is none of"),
    "legacy_magic_alone": Hostile(writes(pickle.dumps(0x1950A86A20F9469CFC6C, 2)), "cut short"),
    "web_page": Hostile(writes(b"\n<!DOCTYPE html><html>"), "web page"),
    "git_lfs_pointer": Hostile(writes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs"),
    "gzip": Hostile(writes(b"\x1f\x8b" + bytes(30)), "gzip"),
    "old_pickle": Hostile(writes(b"cos\nsystem\n(S'true'\ntR."), "protocol 0 or 1"),
    "single_number": Hostile(writes(pickle.dumps(3, 4)), "data of type int"),
    "no_state_dict": Hostile(
        writes(pickle.dumps({"lr": 0.1, "steps": 3}, 4)), "its keys are lr, steps"
    ),
    "folder": Hostile(a_folder, "is a folder"),
    "loop_of_links": Hostile(a_loop, "symbolic links"),
    "pipe": Hostile(a_pipe, "not a regular file"),
    "nothing": Hostile(lambda path: None, "No such file"),
}
