"""Pickles that are not weights: misused instructions, and data that grows out of a few bytes."""

import pickle
import struct

import numpy as np
from weight_files import writers as w
from weight_files.refused_writers import MODULE, NAME, Refused, called, in_zip, writes

SMALL = w.storage("0", "FloatStorage", 4)


def memory(size: int) -> dict[str, int]:
    """Set aside ``size`` bytes."""
    return {"pickle_machine.MOST_MEMORY": size}


NONES = pickle.NONE * 3 + pickle.POP * 3


def doubled(levels: int) -> bytes:
    """Push a tuple of a tuple of ... twice each: 2**levels leaves, a few hundred at most here."""
    return pickle.NONE + (pickle.DUP + pickle.TUPLE2) * levels


def shared_modules(levels: int) -> bytes:
    """Push a module with the same child twice, which has the same child twice, ..."""
    child = w.module("M", {"w": w.pickled_tensor(np.ones(1, np.float32))}) + pickle.BINPUT + b"\0"
    for _ in range(levels):
        again = pickle.BINGET + b"\0"
        parent = w.module("M", {}, {"a": again, "b": again})
        child += pickle.POP + parent + pickle.BINPUT + b"\0"
    return child


PICKLES: dict[str, Refused] = {
    # Other ways to make a reader run or open something.
    "extension_1": Refused(writes(w.program(pickle.EXT1 + b"\xf0")), "number in a registry"),
    "extension_2": Refused(writes(w.program(pickle.EXT2 + b"\xf0\x01")), "number in a registry"),
    "extension_4": Refused(writes(w.program(pickle.EXT4 + bytes(4))), "number in a registry"),
    "nested_pickle": Refused(
        writes(
            w.program(
                w.call(
                    "torch.storage",
                    "_load_from_bytes",
                    w.data(w.legacy(w.program(called()), {})),
                )
            )
        ),
        f"asks to load {MODULE}.{NAME}",
    ),
    "nested_in_itself": Refused(
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
    "object_array": Refused(
        writes(pickle.dumps({"x": np.array([None, {}], object)}, 4)), "numpy array of dtype 'O8'"
    ),
    "persistent_name": Refused(
        in_zip(called() + pickle.BINPERSID),
        f"asks to load {MODULE}.{NAME}",
    ),
    "persistent_number": Refused(in_zip(w.whole(3) + pickle.BINPERSID), "not a storage"),
    "persistent_line": Refused(in_zip(pickle.PERSID + b"elsewhere\n"), "not a storage"),
    "persistent_outside": Refused(
        in_zip(w.storage("../elsewhere", "FloatStorage", 4)), "has no storage"
    ),
    "persistent_module": Refused(
        in_zip(w.bundle(w.text("module"), w.text("source"), w.text("x")) + pickle.BINPERSID),
        "whole module",
    ),
    "persistent_in_plain_pickle": Refused(
        writes(w.program(w.whole(1) + pickle.BINPERSID)), "outside it"
    ),
    "storage_of_no_type": Refused(
        in_zip(w.storage("0", "Tensor", 4), {"0": bytes(16)}), "storage of no type"
    ),
    "storage_of_two_types": Refused(
        in_zip(
            SMALL + w.storage("0", "IntStorage", 4) + pickle.TUPLE2,
            {"0": bytes(16)},
        ),
        "two sizes or types",
    ),
    "called_data": Refused(
        writes(w.program(w.text("x") + w.bundle() + pickle.REDUCE)), "not a name"
    ),
    "called_type": Refused(in_zip(w.call("torch", "FloatStorage", w.whole(4))), "only a name"),
    "called_class": Refused(writes(w.program(w.call("torch", "Tensor"))), "only a name"),
    "state_of_text": Refused(
        writes(w.program(w.text("x") + w.table({}) + pickle.BUILD)), "has none"
    ),
    # Files that grow.
    "doubled_tuples": Refused(writes(w.program(w.table({"x": doubled(8)}))), "no state dict"),
    "doubled_beside_weights": Refused(
        writes(
            w.program(
                w.table({"w": w.pickled_tensor(np.ones(1, np.float32))})[:-1]
                + (w.text("x") + doubled(8) + pickle.SETITEMS),
            )
        ),
        "no state dict",
    ),
    "doubled_beside_an_entry": Refused(
        writes(
            w.program(
                w.table(
                    {
                        "ema": w.table({"w": w.pickled_tensor(np.ones(1, np.float32))}),
                        "x": doubled(8),
                    }
                )
            )
        ),
        "expands without end",
        {"weight_source.MOST_VALUES": 200},
    ),
    "doubled_as_key": Refused(
        writes(w.program(pickle.EMPTY_DICT + doubled(2) + pickle.NONE + pickle.SETITEM)),
        "a key that is neither",
    ),
    "doubled_in_a_set": Refused(
        writes(w.program(pickle.EMPTY_SET + pickle.MARK + doubled(2) + pickle.ADDITEMS)),
        "a key that is neither",
    ),
    "doubled_shape": Refused(
        in_zip(
            w.call("torch._utils", "_rebuild_tensor_v2", SMALL, w.whole(0), doubled(2), w.bundle()),
            {"0": bytes(16)},
        ),
        "not whole numbers",
    ),
    "repeated_lists": Refused(
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
    "shared_modules": Refused(
        writes(w.program(shared_modules(6))),
        "expands without end",
        {"weight_source.MOST_VALUES": 500},
    ),
    "a_module_in_itself": Refused(
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
    "a_list_in_itself": Refused(
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
    "many_sets": Refused(
        writes(w.program(pickle.EMPTY_SET * 50)), "fill the memory", memory(10_000)
    ),
    "many_instructions": Refused(
        writes(w.program(NONES * 20)),
        "more instructions",
        {"pickle_machine.MOST_OPCODES": 100},
    ),
    "many_memos": Refused(
        writes(w.program(pickle.NONE + pickle.MEMOIZE * 60, protocol=4)),
        "more remembered",
        {"pickle_machine.MOST_MEMOS": 50},
    ),
    "copied_lists": Refused(
        writes(
            w.program(
                w.call("builtins", "list") + pickle.MARK + pickle.NONE * 50 + pickle.APPENDS,
                pickle.BINPUT + b"\0",
                w.call("builtins", "list", pickle.BINGET + b"\0") * 20,
            )
        ),
        "fill the memory",
        memory(20_000),
    ),
    "many_marks": Refused(
        writes(w.program(pickle.MARK * 20)),
        "more than 10 marks",
        {"pickle_vm.DEEPEST_MARKS": 10},
    ),
    "large_integer": Refused(
        writes(w.program(pickle.LONG4 + struct.pack("<i", 40) + bytes(40))),
        "a whole number of 40",
        {"pickle_vm.LONGEST_INTEGER": 16},
    ),
    "negative_integer_size": Refused(
        writes(w.program(pickle.LONG4 + struct.pack("<i", -1))), "a whole number of -1"
    ),
    "large_written_integer": Refused(
        writes(w.program(pickle.INT + b"9" * 40 + b"\n")),
        "a line of more than 16",
        {"pickle_vm.LONGEST_INTEGER": 16},
    ),
    "large_bytes": Refused(
        writes(w.program(pickle.BINBYTES8 + struct.pack("<Q", 1000))), "announces 1000 bytes"
    ),
    "large_text": Refused(
        writes(w.program(pickle.BINUNICODE8 + struct.pack("<Q", 200) + b"x" * 200)),
        "a text of 200",
        {"pickle_machine.LONGEST_TEXT": 100},
    ),
    "large_frame": Refused(
        writes(w.program(pickle.FRAME + struct.pack("<Q", 1000), protocol=4)), "a frame of 1000"
    ),
    "large_memo_index": Refused(
        writes(
            w.program(
                pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 70_000) + pickle.BINGET + b"\1"
            )
        ),
        "recalls object 1",
    ),
    "long_key": Refused(
        writes(w.program(w.table({"k" * 600: pickle.NONE}))), "a key that is neither"
    ),
    "a_key_of_many_bits": Refused(
        writes(w.program(pickle.EMPTY_DICT + w.whole(((1 << 61) - 1) << 64) + pickle.NONE + b"s")),
        "a key that is neither",
    ),
    # Broken pickles.
    "empty_pickle": Refused(writes(b"\x80\x02."), "empty stack"),
    "wrong_protocol": Refused(writes(b"\x80\x63N."), "protocol 99"),
    "unknown_instruction": Refused(writes(w.program(b"\xff")), "instruction 0xff"),
    "out_of_band_buffer": Refused(writes(w.program(pickle.NEXT_BUFFER, protocol=5)), "instruction"),
    "unmatched_mark": Refused(writes(w.program(pickle.TUPLE)), "a mark it never made"),
    "items_of_a_list": Refused(
        writes(w.program(pickle.EMPTY_LIST + pickle.NONE * 2 + pickle.SETITEM)), "not a dictionary"
    ),
    "half_an_item": Refused(
        writes(w.program(pickle.EMPTY_DICT + pickle.MARK + pickle.NONE + pickle.SETITEMS)),
        "half an item",
    ),
    "text_that_is_not_utf8": Refused(
        writes(w.program(pickle.SHORT_BINUNICODE + b"\x01\xff", protocol=4)), "not UTF-8"
    ),
    "name_that_is_not_text": Refused(
        writes(w.program(pickle.NONE * 2 + pickle.STACK_GLOBAL, protocol=4)),
        "name that is not text",
    ),
}
