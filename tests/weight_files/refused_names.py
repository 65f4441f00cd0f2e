"""Pickles that ask to load a name that is not allowed: one for each instruction that can.

The name is of nothing that exists, so that no reader can load it.
"""

import pickle

from weight_files import writers as w
from weight_files.refused_writers import MODULE, NAME, called

UNKNOWN = w.dotted(MODULE, NAME)
LINES = f"{MODULE}\n{NAME}\n".encode()


def short(text: str) -> bytes:
    """Push short text, as protocol 4 does."""
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()


NAMED: dict[str, bytes] = {
    "global_reduce": w.program(called()),
    "global_alone": w.program(UNKNOWN),
    "stack_global": w.program(
        short(MODULE) + short(NAME) + pickle.STACK_GLOBAL,
        w.text("x") + pickle.TUPLE1 + pickle.REDUCE,
        protocol=4,
    ),
    "dotted_stack_global": w.program(
        short(MODULE) + short(f"{NAME}.inside") + pickle.STACK_GLOBAL,
        w.text("x") + w.text("y") + pickle.TUPLE2 + pickle.REDUCE,
        protocol=4,
    ),
    "inst": w.program(pickle.MARK + w.text("x") + w.text("y") + pickle.INST + LINES),
    "obj": w.program(pickle.MARK + UNKNOWN + w.text("x") + pickle.OBJ),
    "newobj": w.program(UNKNOWN + w.bundle(w.text("x"), w.whole(0)) + pickle.NEWOBJ),
    "newobj_ex": w.program(
        UNKNOWN + w.bundle(w.text("x")),
        w.table({"mode": w.text("y"), "shape": w.whole(1)}) + pickle.NEWOBJ_EX,
        protocol=4,
    ),
    "build_setstate": w.program(
        pickle.MARK + w.dotted("argparse", "Namespace") + pickle.OBJ,
        w.table({"__setstate__": UNKNOWN}) + pickle.BUILD,
        w.text("x") + pickle.BUILD,
    ),
    # Other names of modules that the list has some of.
    "another_builtin": w.program(w.call("builtins", NAME, w.text("x"))),
    "another_builtin_of_python_2": w.program(w.call("__builtin__", NAME, w.text("x"))),
    "another_of_torch": w.program(w.call("torch._utils", NAME, w.text("x"))),
    "another_of_numpy": w.program(w.call("numpy", NAME, w.text("x"))),
    "inside_a_name_of_the_list": w.program(w.call("collections.OrderedDict", NAME, w.text("x"))),
    "a_result_called_again": w.program(called() + w.bundle(w.text("x")) + pickle.REDUCE),
    "a_result_that_is_dropped": w.program(called() + pickle.POP + pickle.NONE),
    "among_good_names": w.program(
        w.table({"w": w.call("collections", "OrderedDict"), "x": called()})
    ),
}
