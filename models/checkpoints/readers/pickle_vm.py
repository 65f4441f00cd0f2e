"""The pickle format, interpreted over an allow-list: data comes out and nothing is ever executed.

A pickle is a program for a stack machine whose instructions can import and call anything. This
interpreter has the same instructions and no import: a dotted name is looked up in a table of
inert builders (`allowed.py`), and a name that is not in it ends the reading. Bytes objects come
out as spans of the file, so that arrays inside a pickle stay on disk.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

from .pickle_machine import Allowed, Budget, Machine, Stateful
from .weight_file import Cursor

HIGHEST_PROTOCOL = 5
LONGEST_LINE = 1 << 16
LONGEST_INTEGER = 256
DEEPEST_MARKS = 1000


def interpret(
    cursor: Cursor,
    names: Mapping[tuple[str, str], Allowed],
    budget: Budget,
    persistent: Callable[[Machine, Any], Any] | None = None,
) -> Any:
    """Interpret a pickle up to its STOP instruction and return the object.

    Args:
        cursor: where the pickle starts; left behind its last byte.
        names: the allow-list, by module and name.
        budget: limits, shared by the pickles of a file.
        persistent: called with the machine and the identifier for objects stored outside the
            pickle; None where the format has none.

    Raises:
        UserError: a name off the list, a malformed or truncated pickle, or one that costs too much.
    """
    machine = Machine(cursor, names, budget, persistent)
    while (code := cursor.read(1)[0]) != pickle.STOP[0]:
        operation = OPERATIONS.get(code)
        if operation is None:
            raise machine.malformed(f"instruction 0x{code:02x}, which no weight file needs")
        budget.opcodes -= 1
        if budget.opcodes < 0:
            raise machine.too_much("more instructions than any weight file has")
        operation(machine)
    return machine.pop()


def _protocol(machine: Machine) -> None:
    version = machine.cursor.unsigned(1)
    if version > HIGHEST_PROTOCOL:
        raise machine.malformed(f"protocol {version}, where {HIGHEST_PROTOCOL} is the highest")


def _frame(machine: Machine) -> None:
    size = machine.cursor.unsigned(8)
    if size > machine.cursor.left:
        raise machine.malformed(f"a frame of {size} bytes where {machine.cursor.left} are left")


def _mark(machine: Machine) -> None:
    if len(machine.marks) >= DEEPEST_MARKS:
        raise machine.too_much(f"more than {DEEPEST_MARKS} marks inside each other")
    machine.charge(64)
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    # As in Python: without items since the mark, it takes the mark.
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_marked()


def _integer(machine: Machine, size: int, *, signed: bool) -> None:
    machine.push(int.from_bytes(machine.cursor.read(size), "little", signed=signed))


def _long(machine: Machine, width: int) -> None:
    size = int.from_bytes(machine.cursor.read(width), "little", signed=width == 4)
    if not 0 <= size <= LONGEST_INTEGER:
        raise machine.too_much(f"a whole number of {size} bytes")
    machine.push(int.from_bytes(machine.cursor.read(size), "little", signed=True), 40 + size)


def _integer_line(machine: Machine) -> None:
    text = machine.line(LONGEST_INTEGER)
    if text in ("00", "01"):
        machine.push(text == "01")
    else:
        machine.push(machine.number(int, text.removesuffix("L")), 40 + len(text))


def _float(machine: Machine) -> None:
    machine.push(struct.unpack(">d", machine.cursor.read(8))[0])


def _bytes(machine: Machine, width: int) -> None:
    machine.push(machine.cursor.span(machine.cursor.unsigned(width)), 120)


def _text(machine: Machine, width: int) -> None:
    machine.push(machine.text(machine.cursor.unsigned(width)), 60)


def _unicode_line(machine: Machine) -> None:
    line = machine.cursor.line(LONGEST_LINE)
    try:
        machine.push(line.decode("raw-unicode-escape"), 60 + 5 * len(line))
    except UnicodeDecodeError as error:
        raise machine.malformed("text with a broken escape") from error


def _tuple(machine: Machine, count: int) -> None:
    items = [machine.pop() for _ in range(count)]
    machine.push(tuple(reversed(items)), 48 + 8 * count)


def _marked_tuple(machine: Machine) -> None:
    items = tuple(machine.pop_marked())
    machine.push(items, 48 + 8 * len(items))


def _marked_list(machine: Machine) -> None:
    items = machine.pop_marked()
    machine.push(items, 64 + 16 * len(items))


def _marked_dict(machine: Machine) -> None:
    items = machine.pop_marked()
    machine.push({}, 64)
    machine.fill(machine.top(), items)


def _frozen_set(machine: Machine) -> None:
    items = machine.pop_marked()
    machine.push(set(), 216)
    machine.add(machine.top(), items)


def _items(machine: Machine) -> None:
    items = machine.pop_marked()
    machine.fill(machine.top(), items)


def _item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill(machine.top(), [key, value])


def _append(machine: Machine) -> None:
    item = machine.pop()
    machine.extend(machine.top(), [item])


def _appends(machine: Machine) -> None:
    items = machine.pop_marked()
    machine.extend(machine.top(), items)


def _add_items(machine: Machine) -> None:
    items = machine.pop_marked()
    machine.add(machine.top(), items)


def _global(machine: Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.push(machine.find(module, name))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise machine.malformed("a dotted name that is not text")
    machine.push(machine.find(module, name))


def _reduce(machine: Machine) -> None:
    arguments, target = machine.pop(), machine.pop()
    machine.push(machine.call(target, arguments))


def _new_with_keywords(machine: Machine) -> None:
    keywords = machine.pop()
    if type(keywords) is not dict or keywords:
        raise machine.malformed("an object made with keywords")
    _reduce(machine)


def _instance(machine: Machine) -> None:
    module, name = machine.line(), machine.line()
    arguments = tuple(machine.pop_marked())
    machine.push(machine.call(machine.find(module, name), arguments))


def _object(machine: Machine) -> None:
    target, *arguments = machine.pop_marked() or [None]
    machine.push(machine.call(target, tuple(arguments)))


def _build(machine: Machine) -> None:
    state = machine.pop()
    target = machine.top()
    if isinstance(target, Stateful):
        target.set_state(machine, state)
    elif type(target) is not dict:  # an OrderedDict may have some: torch notes versions there
        raise machine.malformed("it sets the state of what has none")


def _persistent(machine: Machine, identifier: Any) -> None:
    if machine.persistent is None:
        raise machine.malformed("it refers to objects outside it, which its format does not have")
    machine.push(machine.persistent(machine, identifier))


def _extension(machine: Machine) -> None:
    raise machine.malformed("a name by its number in a registry, which files cannot bring along")


OPERATIONS: dict[int, Callable[[Machine], None]] = {
    code[0]: operation
    for code, operation in {
        pickle.PROTO: _protocol,
        pickle.FRAME: _frame,
        pickle.MARK: _mark,
        pickle.POP: _pop,
        pickle.POP_MARK: lambda machine: machine.pop_marked(),
        pickle.DUP: lambda machine: machine.push(machine.top(), 0),
        pickle.NONE: lambda machine: machine.push(None),
        pickle.NEWTRUE: lambda machine: machine.push(True),
        pickle.NEWFALSE: lambda machine: machine.push(False),
        pickle.BININT: lambda machine: _integer(machine, 4, signed=True),
        pickle.BININT1: lambda machine: _integer(machine, 1, signed=False),
        pickle.BININT2: lambda machine: _integer(machine, 2, signed=False),
        pickle.LONG1: lambda machine: _long(machine, 1),
        pickle.LONG4: lambda machine: _long(machine, 4),
        pickle.INT: _integer_line,
        pickle.LONG: _integer_line,
        pickle.FLOAT: lambda machine: machine.push(machine.number(float, machine.line())),
        pickle.BINFLOAT: _float,
        pickle.SHORT_BINBYTES: lambda machine: _bytes(machine, 1),
        pickle.BINBYTES: lambda machine: _bytes(machine, 4),
        pickle.BINBYTES8: lambda machine: _bytes(machine, 8),
        pickle.BYTEARRAY8: lambda machine: _bytes(machine, 8),
        pickle.SHORT_BINSTRING: lambda machine: _text(machine, 1),
        pickle.BINSTRING: lambda machine: _text(machine, 4),
        pickle.SHORT_BINUNICODE: lambda machine: _text(machine, 1),
        pickle.BINUNICODE: lambda machine: _text(machine, 4),
        pickle.BINUNICODE8: lambda machine: _text(machine, 8),
        pickle.UNICODE: _unicode_line,
        pickle.EMPTY_TUPLE: lambda machine: machine.push(()),
        pickle.TUPLE1: lambda machine: _tuple(machine, 1),
        pickle.TUPLE2: lambda machine: _tuple(machine, 2),
        pickle.TUPLE3: lambda machine: _tuple(machine, 3),
        pickle.TUPLE: _marked_tuple,
        pickle.EMPTY_LIST: lambda machine: machine.push([], 64),
        pickle.LIST: _marked_list,
        pickle.APPEND: _append,
        pickle.APPENDS: _appends,
        pickle.EMPTY_DICT: lambda machine: machine.push({}, 64),
        pickle.DICT: _marked_dict,
        pickle.SETITEM: _item,
        pickle.SETITEMS: _items,
        pickle.EMPTY_SET: lambda machine: machine.push(set(), 216),
        pickle.ADDITEMS: _add_items,
        pickle.FROZENSET: _frozen_set,
        pickle.PUT: lambda machine: machine.remember(machine.number(int, machine.line())),
        pickle.BINPUT: lambda machine: machine.remember(machine.cursor.unsigned(1)),
        pickle.LONG_BINPUT: lambda machine: machine.remember(machine.cursor.unsigned(4)),
        pickle.MEMOIZE: lambda machine: machine.remember(len(machine.memo)),
        pickle.GET: lambda machine: machine.recall(machine.number(int, machine.line())),
        pickle.BINGET: lambda machine: machine.recall(machine.cursor.unsigned(1)),
        pickle.LONG_BINGET: lambda machine: machine.recall(machine.cursor.unsigned(4)),
        pickle.GLOBAL: _global,
        pickle.STACK_GLOBAL: _stack_global,
        pickle.REDUCE: _reduce,
        pickle.NEWOBJ: _reduce,
        pickle.NEWOBJ_EX: _new_with_keywords,
        pickle.INST: _instance,
        pickle.OBJ: _object,
        pickle.BUILD: _build,
        pickle.PERSID: lambda machine: _persistent(machine, machine.line()),
        pickle.BINPERSID: lambda machine: _persistent(machine, machine.pop()),
        pickle.EXT1: _extension,
        pickle.EXT2: _extension,
        pickle.EXT4: _extension,
    }.items()
}
