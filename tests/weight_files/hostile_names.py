"""Pickles that run a command when Python reads them: one for each instruction that can."""

import pickle

from weight_files import writers as w
from weight_files.hostile_writers import CANARY, canary, command

SYSTEM = w.dotted("os", "system")


def short(text: str) -> bytes:
    """Push short text, as protocol 4 does."""
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()


ARMED = {
    "global_reduce": lambda path: w.program(w.call("os", "system", command(path))),
    "stack_global": lambda path: w.program(
        short("posix") + short("system") + pickle.STACK_GLOBAL,
        command(path) + pickle.TUPLE1 + pickle.REDUCE,
        protocol=4,
    ),
    "dotted_stack_global": lambda path: w.program(
        short("pickle") + short("io.open") + pickle.STACK_GLOBAL,
        canary(path) + w.text("w") + pickle.TUPLE2 + pickle.REDUCE,
        protocol=4,
    ),
    "inst": lambda path: w.program(
        pickle.MARK + canary(path) + w.text("w"),
        pickle.INST + b"io\nopen\n",
    ),
    "obj": lambda path: w.program(
        pickle.MARK + w.dotted("io", "FileIO"),
        canary(path) + w.text("w") + pickle.OBJ,
    ),
    "newobj": lambda path: w.program(
        w.dotted("numpy", "memmap"),
        w.bundle(canary(path), w.text("uint8"), w.text("w+"), w.whole(0), w.whole(1)),
        pickle.NEWOBJ,
    ),
    "newobj_ex": lambda path: w.program(
        w.dotted("numpy", "memmap") + w.bundle(canary(path)),
        w.table({"mode": w.text("w+"), "shape": w.whole(1)}) + pickle.NEWOBJ_EX,
        protocol=4,
    ),
    "build_setstate": lambda path: w.program(
        pickle.MARK + w.dotted("argparse", "Namespace") + pickle.OBJ,
        w.table({"__setstate__": SYSTEM}) + pickle.BUILD,
        command(path) + pickle.BUILD,
    ),
    "builtins_eval": lambda path: w.program(
        w.call("builtins", "eval", w.text(f"open({str(path.parent / CANARY)!r}, 'w').close()"))
    ),
    "builtins_getattr": lambda path: w.program(
        w.call("builtins", "getattr", w.call("importlib", "import_module", w.text("os")))[:-2]
        + (w.text("system") + pickle.TUPLE + pickle.REDUCE),
        w.bundle(command(path)) + pickle.REDUCE,
    ),
    "python_2_names": lambda path: w.program(
        w.call("__builtin__", "exec", w.text(f"open({str(path.parent / CANARY)!r}, 'w').close()"))
    ),
    "a_result_that_is_dropped": lambda path: w.program(
        w.call("os", "system", command(path)) + pickle.POP + pickle.NONE
    ),
    "among_good_names": lambda path: w.program(
        w.table(
            {"w": w.call("collections", "OrderedDict"), "x": w.call("os", "system", command(path))}
        )
    ),
}
