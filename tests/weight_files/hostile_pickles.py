"""Pickles that are not weights: misused instructions, and data that grows out of a few bytes."""

import pickle
import struct

import numpy as np
from weight_files import writers as w
from weight_files.hostile_names import ARMED
from weight_files.hostile_writers import Hostile, command, in_zip, writes

SMALL = w.storage("0", "FloatStorage", 4)
HUGE = 1 << 62
NONES = pickle.NONE * 3 + pickle.POP * 3


def doubled(levels: int) -> bytes:
    """Push a tuple of a tuple of ... twice each: 2**levels leaves in a few bytes a level."""
    return pickle.NONE + (pickle.DUP + pickle.TUPLE2) * levels


def laughing_modules(levels: int) -> bytes:
    """Push a module with the same child twice, which has the same child twice, ..."""
    child = w.module("M", {"w": w.pickled_tensor(np.ones(1, np.float32))}) + pickle.BINPUT + b"\0"
    for _ in range(levels):
        again = pickle.BINGET + b"\0"
        parent = w.module("M", {}, {"a": again, "b": again})
        child += pickle.POP + parent + pickle.BINPUT + b"\0"
    return child


PICKLES: dict[str, Hostile] = {
    # Other ways to make a reader run or open something.
    "extension_1": Hostile(writes(w.program(pickle.EXT1 + b"\xf0")), "number in a registry"),
    "extension_2": Hostile(writes(w.program(pickle.EXT2 + b"\xf0\x01")), "number in a registry"),
    "extension_4": Hostile(writes(w.program(pickle.EXT4 + bytes(4))), "number in a registry"),
    "nested_pickle": Hostile(
        lambda path: path.write_bytes(
            w.program(
                w.call(
                    "torch.storage",
                    "_load_from_bytes",
                    w.data(w.legacy(ARMED["global_reduce"](path), {})),
                )
            )
        ),
        "asks to load os.system",
    ),
    "nested_in_itself": Hostile(
        writes(
            w.program(
                w.call(
                    "torch.storage",
                    "_load_from_bytes",
                    w.data(
                        w.legacy(
                            w.program(w.call("torch.storage", "_load_from_bytes", w.data(b""))), {}
                        )
                    ),
                )
            )
        ),
        "asks to load torch.storage._load_from_bytes",
    ),
    "object_array": Hostile(
        writes(pickle.dumps({"x": np.array([print, {}], object)}, 4)), "numpy array of dtype 'O8'"
    ),
    "persistent_name": Hostile(
        lambda path: w.write_zip(
            path,
            w.zip_members(w.program(w.call("os", "system", command(path)) + pickle.BINPERSID), {}),
        ),
        "asks to load os.system",
    ),
    "persistent_number": Hostile(in_zip(w.whole(3) + pickle.BINPERSID), "not a storage"),
    "persistent_line": Hostile(in_zip(pickle.PERSID + b"/etc/passwd\n"), "not a storage"),
    "persistent_outside": Hostile(
        in_zip(w.storage("../../../etc/passwd", "FloatStorage", 4)), "has no storage"
    ),
    "persistent_module": Hostile(
        in_zip(w.bundle(w.text("module"), w.text("code"), w.text("print()")) + pickle.BINPERSID),
        "whole module",
    ),
    "persistent_in_plain_pickle": Hostile(
        writes(w.program(w.whole(1) + pickle.BINPERSID)), "outside it"
    ),
    "storage_of_no_type": Hostile(
        in_zip(w.storage("0", "Tensor", 4), {"0": bytes(16)}), "storage of no type"
    ),
    "storage_of_two_types": Hostile(
        in_zip(
            SMALL + w.storage("0", "IntStorage", 4) + pickle.TUPLE2,
            {"0": bytes(16)},
        ),
        "two sizes or types",
    ),
    "called_data": Hostile(
        writes(w.program(w.text("os") + w.bundle() + pickle.REDUCE)), "not a name"
    ),
    "state_of_text": Hostile(
        writes(w.program(w.text("x") + w.table({}) + pickle.BUILD)), "has none"
    ),
    # Files that grow.
    "doubled_tuples": Hostile(writes(w.program(w.table({"x": doubled(60)}))), "no state dict"),
    "doubled_beside_weights": Hostile(
        writes(
            w.program(
                w.table({"w": w.pickled_tensor(np.ones(1, np.float32))})[:-1]
                + (w.text("bomb") + doubled(60) + pickle.SETITEMS),
            )
        ),
        "no state dict",
    ),
    "doubled_beside_an_entry": Hostile(
        writes(
            w.program(
                w.table(
                    {
                        "ema": w.table({"w": w.pickled_tensor(np.ones(1, np.float32))}),
                        "bomb": doubled(60),
                    }
                )
            )
        ),
        "expands without end",
    ),
    "doubled_as_key": Hostile(
        writes(w.program(pickle.EMPTY_DICT + doubled(60) + pickle.NONE + pickle.SETITEM)),
        "a key that is neither",
    ),
    "doubled_in_a_set": Hostile(
        writes(w.program(pickle.EMPTY_SET + pickle.MARK + doubled(60) + pickle.ADDITEMS)),
        "a key that is neither",
    ),
    "doubled_shape": Hostile(
        in_zip(
            w.call(
                "torch._utils", "_rebuild_tensor_v2", SMALL, w.whole(0), doubled(60), w.bundle()
            ),
            {"0": bytes(16)},
        ),
        "not whole numbers",
    ),
    "laughing_lists": Hostile(
        writes(
            w.program(
                pickle.EMPTY_LIST
                + (pickle.BINPUT + b"\0" + pickle.POP + pickle.EMPTY_LIST + pickle.MARK)
                + (pickle.BINGET + b"\0") * 10
                + pickle.APPENDS
            )
        ),
        "no state dict",
    ),
    "laughing_modules": Hostile(writes(w.program(laughing_modules(40))), "expands without end"),
    "a_module_in_itself": Hostile(
        writes(
            w.program(
                w.table({}) + pickle.BINPUT + b"\1",
                w.text("a") + w.module("M", {}, _modules=pickle.BINGET + b"\1"),
                pickle.SETITEM,
                pickle.POP + w.module("M", {}, _modules=pickle.BINGET + b"\1"),
            )
        ),
        "expands without end",
    ),
    "a_list_in_itself": Hostile(
        writes(
            w.program(
                w.table(
                    {
                        "ema": w.table({"w": w.pickled_tensor(np.ones(1, np.float32))}),
                        "loop": pickle.EMPTY_LIST + pickle.DUP + pickle.APPEND,
                    }
                )
            )
        ),
        "expands without end",
    ),
    "many_sets": Hostile(writes(w.program(pickle.EMPTY_SET * 700_000)), "fill the memory"),
    "many_instructions": Hostile(writes(w.program(NONES * 200_000)), "more instructions"),
    "many_memos": Hostile(
        writes(w.program(pickle.NONE + pickle.MEMOIZE * 600_000, protocol=4)), "more remembered"
    ),
    "copied_lists": Hostile(
        writes(
            w.program(
                w.call("builtins", "list") + pickle.MARK + pickle.NONE * 10_000 + pickle.APPENDS,
                pickle.BINPUT + b"\0",
                w.call("builtins", "list", pickle.BINGET + b"\0") * 1000,
            )
        ),
        "fill the memory",
    ),
    "many_marks": Hostile(writes(w.program(pickle.MARK * 5000)), "marks inside each other"),
    "huge_integer": Hostile(
        writes(w.program(pickle.LONG4 + struct.pack("<i", 1 << 30))), "a whole number of"
    ),
    "negative_integer_size": Hostile(
        writes(w.program(pickle.LONG4 + struct.pack("<i", -1))), "a whole number of -1"
    ),
    "huge_written_integer": Hostile(
        writes(w.program(pickle.INT + b"9" * 5000 + b"\n")), "a line of more than 256"
    ),
    "huge_bytes": Hostile(
        writes(w.program(pickle.BINBYTES8 + struct.pack("<Q", HUGE))), "announces"
    ),
    "huge_text": Hostile(
        writes(w.program(pickle.BINUNICODE8 + struct.pack("<Q", HUGE))), "a text of"
    ),
    "huge_frame": Hostile(
        writes(w.program(pickle.FRAME + struct.pack("<Q", HUGE), protocol=4)), "a frame of"
    ),
    "huge_memo_index": Hostile(
        writes(w.program(pickle.NONE + pickle.LONG_BINPUT + b"\xff" * 4 + pickle.BINGET + b"\1")),
        "recalls object 1",
    ),
    "long_key": Hostile(
        writes(w.program(w.table({"k" * 600: pickle.NONE}))), "a key that is neither"
    ),
    "colliding_keys": Hostile(
        writes(w.program(pickle.EMPTY_DICT + w.whole(((1 << 61) - 1) << 64) + pickle.NONE + b"s")),
        "a key that is neither",
    ),
    # Broken pickles.
    "empty_pickle": Hostile(writes(b"\x80\x02."), "empty stack"),
    "wrong_protocol": Hostile(writes(b"\x80\x63N."), "protocol 99"),
    "unknown_instruction": Hostile(writes(w.program(b"\xff")), "instruction 0xff"),
    "out_of_band_buffer": Hostile(writes(w.program(pickle.NEXT_BUFFER, protocol=5)), "instruction"),
    "unmatched_mark": Hostile(writes(w.program(pickle.TUPLE)), "a mark it never made"),
    "items_of_a_list": Hostile(
        writes(w.program(pickle.EMPTY_LIST + pickle.NONE * 2 + pickle.SETITEM)), "not a dictionary"
    ),
    "half_an_item": Hostile(
        writes(w.program(pickle.EMPTY_DICT + pickle.MARK + pickle.NONE + pickle.SETITEMS)),
        "half an item",
    ),
    "text_that_is_not_utf8": Hostile(
        writes(w.program(pickle.SHORT_BINUNICODE + b"\x01\xff", protocol=4)), "not UTF-8"
    ),
    "name_that_is_not_text": Hostile(
        writes(w.program(pickle.NONE * 2 + pickle.STACK_GLOBAL, protocol=4)),
        "name that is not text",
    ),
}
