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
from weight_files.refused_writers import Refused, archive, in_zip, writes

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


def a_device(path: Path) -> None:
    path.symlink_to(os.devnull)


CONTAINERS: dict[str, Refused] = {
    "truncated_pickle": Refused(writes(GOOD_PICKLE[:-40]), "cut short"),
    "truncated_legacy": Refused(writes(GOOD_LEGACY[:-4]), "cut short"),
    "legacy_without_storages": Refused(writes(GOOD_LEGACY[:100]), "cut short"),
    "legacy_of_another_size": Refused(
        writes(
            w.legacy(
                w.program(w.storage("0", "FloatStorage", 9, pickle.NONE)), {"0": (4, bytes(16))}
            )
        ),
        "has 4 elements where its tensors expect 9",
    ),
    "legacy_of_other_keys": Refused(
        writes(w.legacy(w.program(w.table({})), {"0": (0, b"")})), "other storages"
    ),
    "legacy_negative_storage": Refused(
        writes(
            w.legacy(w.program(w.storage("0", "FloatStorage", -4, pickle.NONE)), {"0": (-4, b"")})
        ),
        "no type or size",
    ),
    "part_outside_its_storage": Refused(
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
    "truncated_zip": Refused(writes(GOOD_ZIP[: len(GOOD_ZIP) // 2]), "without its end"),
    "zip_without_its_start": Refused(writes(GOOD_ZIP[:4] + GOOD_ZIP[60:]), "damaged"),
    "zip_with_a_tail": Refused(writes(GOOD_ZIP + b"tail"), "behind its end"),
    "zip_of_nothing": Refused(writes(b"PK\x05\x06" + bytes(18)), "no data.pkl"),
    "zip_with_many_members": Refused(
        writes(GOOD_ZIP), "a directory of 4 members", {"zip_directory.MOST_MEMBERS": 3}
    ),
    "zip_with_a_large_directory": Refused(
        writes(GOOD_ZIP), "a directory of 4 members", {"zip_directory.LARGEST_DIRECTORY": 100}
    ),
    "name_with_a_step_up": Refused(
        archive(("a/../a/data.pkl", w.program(w.table({})))), "points outside the archive"
    ),
    "name_with_a_backslash": Refused(archive(("a\\b", b"")), "points outside the archive"),
    "absolute_name": Refused(archive(("/a/data.pkl", b"")), "points outside the archive"),
    "drive_name": Refused(archive(("c:/data.pkl", b"")), "points outside the archive"),
    "compressed_member": Refused(
        archive(("archive/data.pkl", bytes(64)), compression=zipfile.ZIP_DEFLATED),
        "compressed member",
    ),
    "duplicate_member": Refused(twice_named, "two members named"),
    "overlapping_members": Refused(overlapping, "members that overlap"),
    "two_pickles": Refused(archive(("a/data.pkl", b"x"), ("b/data.pkl", b"x")), "or several"),
    "numpy_archive": Refused(archive(("x.npy", b"\x93NUMPY")), "numpy archive"),
    "torchscript": Refused(
        archive(("a/data.pkl", b"x"), ("a/constants.pkl", b"x")), "TorchScript program"
    ),
    "strange_byte_order": Refused(
        archive(("a/data.pkl", w.program(w.table({}))), ("a/byteorder", b"middle")), "byte order"
    ),
    "missing_storage": Refused(in_zip(SMALL), "has no storage '0'"),
    "short_storage": Refused(one_tensor((4,), size=12), "should have 4 elements"),
    "damaged_pickle_in_zip": Refused(
        writes(GOOD_ZIP.replace(b"FloatStorage", b"HalfsStorage")), "checksum"
    ),
    # Absurd arrays.
    "large_shape": Refused(one_tensor((3, 3)), "reaches element 8"),
    "negative_shape": Refused(one_tensor((-4,), (1,)), "negative"),
    "negative_stride": Refused(one_tensor((4,), (-1,)), "negative"),
    "negative_offset": Refused(one_tensor((4,), offset=-1), "an offset that is negative"),
    "offset_beyond_storage": Refused(one_tensor((4,), offset=1), "reaches element 4"),
    "stride_beyond_storage": Refused(one_tensor((2, 2), (3, 1)), "reaches element 4"),
    "many_axes": Refused(one_tensor((1,) * 40), "40 axes"),
    "fewer_strides": Refused(one_tensor((2, 2), (1,)), "2 axes with 1 strides"),
    "conjugate_view": Refused(
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
    "expanded_without_end": Refused(
        one_tensor((1 << 12,), (0,)),
        "expanded far beyond",
        {"weight_source.MOST_EXPANSION": 1, "weight_source.EXPANSION_ALLOWANCE": 0},
    ),
    "storage_of_more": Refused(one_tensor((4,), elements=5), "should have 5 elements"),
    "storage_of_minus_4": Refused(one_tensor((4,), elements=-4), "reaches|should have"),
    "array_of_another_size": Refused(
        writes(pickle.dumps({"x": np.arange(7.0)}, 2).replace(b"K\x07", b"K\x08")),
        "an array of shape",
    ),
    # Broken safetensors.
    "header_larger_than_file": Refused(writes(safetensors({}, size=1000)), "reaches to byte 1008"),
    "header_of_no_json": Refused(writes(safetensors(b"{nonsense")), "not JSON"),
    "header_nested_deep": Refused(
        writes(safetensors(b'{"a":' * 20 + b"1" + b"}" * 20)), "nested too deep"
    ),
    "large_header": Refused(
        writes(safetensors({"a": entry(0, 16)}, bytes(16))),
        "a header of",
        {"safetensors_file.LARGEST_HEADER": 20},
    ),
    "header_with_long_number": Refused(
        writes(safetensors(b'{"a":' + b"9" * 5000 + b"}")), "not JSON"
    ),
    "header_twice_a_key": Refused(
        writes(
            safetensors(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2), bytes(16))
        ),
        "names 'a' twice",
    ),
    "arrays_overlap": Refused(
        writes(safetensors({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24))), "overlap"
    ),
    "arrays_leave_a_gap": Refused(
        writes(safetensors({"a": entry(0, 16), "b": entry(20, 36)}, bytes(36))), "leave a gap"
    ),
    "arrays_outside": Refused(writes(safetensors({"a": entry(0, 16)}, bytes(8))), "cut short"),
    "arrays_backwards": Refused(writes(safetensors({"a": entry(16, 0)}, bytes(16))), "impossible"),
    "shape_of_another_size": Refused(
        writes(safetensors({"a": entry(0, 16, (5,))}, bytes(16))), "shape"
    ),
    "shape_negative": Refused(
        writes(safetensors({"a": entry(0, 16, (-2, -2))}, bytes(16))), "negative"
    ),
    "shape_of_text": Refused(
        writes(safetensors({"a": entry(0, 16, ("4",))}, bytes(16))), "not whole numbers"
    ),
    "eight_bit_floats": Refused(
        writes(safetensors({"a": entry(0, 4, dtype="F8_E4M3")}, bytes(4))), "as F8_E4M3"
    ),
    "header_of_a_list": Refused(writes(safetensors({"a": [1]})), "does not say dtype"),
    "metadata_of_a_list": Refused(writes(safetensors({"__metadata__": [1]})), "metadata"),
    "metadata_of_numbers": Refused(
        writes(safetensors({"__metadata__": {"a": 1}, "a": entry(0, 16)}, bytes(16))), "library"
    ),
    "no_arrays": Refused(writes(safetensors({})), "holds no tensors"),
    "bytes_behind": Refused(writes(safetensors({"a": entry(0, 16)}, bytes(20))), "behind its last"),
    # No weights at all.
    "empty_file": Refused(writes(b""), "is empty"),
    "one_byte": Refused(writes(b"\x80"), "cut short"),
    "wrong_magic": Refused(writes(b"MZ\x90\0" * 20), "is none of"),
    "legacy_magic_alone": Refused(writes(pickle.dumps(0x1950A86A20F9469CFC6C, 2)), "cut short"),
    "web_page": Refused(writes(b"\n<!DOCTYPE html><html>"), "web page"),
    "git_lfs_pointer": Refused(writes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs"),
    "gzip": Refused(writes(b"\x1f\x8b" + bytes(30)), "gzip"),
    "old_pickle": Refused(writes(b"cnowhere\nnothing\n."), "protocol 0 or 1"),
    "single_number": Refused(writes(pickle.dumps(3, 4)), "data of type int"),
    "no_state_dict": Refused(
        writes(pickle.dumps({"lr": 0.1, "steps": 3}, 4)), "its keys are lr, steps"
    ),
    "folder": Refused(a_folder, "is a folder"),
    "loop_of_links": Refused(a_loop, "symbolic links"),
    "device": Refused(a_device, "not a regular file"),
    "nothing": Refused(lambda path: None, "No such file"),
}
