"""The stack, marks and memo that pickles are interpreted on, and the limits of what they cost."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .weight_file import DOWNLOAD, RESAVE, Cursor, WeightFile

LONGEST_NAME = 512
LONGEST_TEXT = 1 << 24
INTEGER_KEY_BITS = 64
# Of one file.
MOST_OPCODES = 1_000_000
MOST_MEMORY = 128 << 20
MOST_MEMOS = 500_000


@dataclasses.dataclass
class Budget:
    """What one file may cost to interpret, over all pickles in it; spent as they are read.

    Attributes:
        opcodes: instructions left.
        memory: bytes of Python objects left, by estimates that err upwards.
        memos: remembered objects left.
    """

    opcodes: int = dataclasses.field(default_factory=lambda: MOST_OPCODES)
    memory: int = dataclasses.field(default_factory=lambda: MOST_MEMORY)
    memos: int = dataclasses.field(default_factory=lambda: MOST_MEMOS)


@dataclasses.dataclass(frozen=True)
class Allowed:
    """A dotted name that files may use.

    Attributes:
        name: the name, for messages.
        build: called with the machine and the tuple of arguments where the file calls the name;
            None where the name may be mentioned (a dtype, a storage class) and not called.
        value: what the name stands for.
    """

    name: str
    build: Callable[["Machine", tuple], Any] | None = None
    value: Any = None


class Stateful:
    """A record of an object whose state comes after it."""

    def set_state(self, machine: "Machine", state: Any) -> None:
        """Take the state that the file has for it."""
        raise machine.malformed("an object whose state is not its own")


class Machine:
    """The state of interpreting one pickle (`pickle_vm.interpret`).

    Args:
        cursor: where the pickle goes on.
        names: the allow-list, by module and name.
        budget: limits, shared by the pickles of a file.
        persistent: called with the machine and the identifier for objects stored outside the
            pickle; None where the format has none.
    """

    def __init__(
        self,
        cursor: Cursor,
        names: Mapping[tuple[str, str], Allowed],
        budget: Budget,
        persistent: Callable[["Machine", Any], Any] | None = None,
    ):
        self.cursor = cursor
        self.names = names
        self.budget = budget
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    @property
    def file(self) -> WeightFile:
        """The file that is read, which refusals name."""
        return self.cursor.file

    def malformed(self, problem: str) -> Exception:
        """Return the error of a pickle that is not what a framework writes."""
        return self.file.refused(
            f"holds a malformed pickle ({problem}, before byte {self.cursor.position}); nothing "
            "in it was run",
            DOWNLOAD,
        )

    def too_much(self, problem: str) -> Exception:
        """Return the error of a pickle that grows beyond its limits."""
        return self.file.refused(
            f"holds a pickle that expands beyond its limits: {problem}; nothing in it was run",
            RESAVE,
        )

    def charge(self, size: int) -> None:
        """Spend memory before it is used."""
        self.budget.memory -= size
        if self.budget.memory < 0:
            raise self.too_much("its objects fill the memory set aside for them")

    def push(self, value: Any, size: int = 40) -> None:
        """Put ``value``, which takes about ``size`` bytes, on the stack."""
        self.charge(size + 8)
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top of the stack."""
        if not self.stack:
            raise self.malformed("it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the top of the stack and leave it there."""
        if not self.stack:
            raise self.malformed("it looks at an empty stack")
        return self.stack[-1]

    def pop_marked(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        if not self.marks:
            raise self.malformed("it goes back to a mark it never made")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def find(self, module: str, name: str) -> Allowed:
        """Look up a dotted name."""
        found = self.names.get((module, name))
        if found is None:
            dotted = f"{module}.{name}"
            shown = ascii(dotted[:LONGEST_NAME])[1:-1]
            raise self.file.refused(
                f"asks to load {shown}, which is not on the list of plain data that weight files "
                "may hold; nothing in it was run",
                RESAVE,
            )
        return found

    def call(self, target: Any, arguments: Any) -> Any:
        """Build what the allowed name ``target`` builds from a tuple of arguments."""
        if not isinstance(target, Allowed) or type(arguments) is not tuple:
            raise self.malformed("it calls something that is not a name, or without arguments")
        if target.build is None:
            raise self.malformed(f"it calls {target.name}, which is only a name")
        self.charge(64)
        return target.build(self, arguments)

    def wrong(self, name: str) -> Exception:
        """Return the error of arguments that ``name`` cannot have been saved with."""
        return self.malformed(f"{name} with arguments it is never saved with")

    def require_key(self, key: Any) -> Any:
        """Return ``key`` if it may key a dictionary or be in a set.

        Scalars only: hashing a tuple that holds itself over and over takes exponential time, and
        whole numbers beyond 64 bits can be chosen to collide.
        """
        if key is None or type(key) in (bool, float):
            return key
        if type(key) is str and len(key) <= LONGEST_NAME:
            return key
        if type(key) is int and key.bit_length() <= INTEGER_KEY_BITS:
            return key
        raise self.malformed("a key that is neither a name nor a number")

    def fill(self, target: Any, items: list[Any]) -> None:
        """Set the alternating keys and values of ``items``."""
        if not isinstance(target, dict) or len(items) % 2:
            raise self.malformed("it sets items of what is not a dictionary, or half an item")
        self.charge(100 * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.require_key(key)] = value

    def add(self, target: Any, items: list[Any]) -> None:
        """Add ``items`` to a set."""
        if type(target) is not set:
            raise self.malformed("it adds to what is not a set")
        self.charge(80 * len(items))
        target.update(self.require_key(item) for item in items)

    def extend(self, target: Any, items: list[Any]) -> None:
        """Append ``items`` to a list."""
        if type(target) is not list:
            raise self.malformed("it appends to what is not a list")
        self.charge(16 * len(items))
        target.extend(items)

    def remember(self, index: int) -> None:
        """Put the top of the stack in the memo."""
        self.budget.memos -= 1
        if self.budget.memos < 0:
            raise self.too_much("more remembered objects than any weight file has")
        self.charge(100)
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a remembered object."""
        if index not in self.memo:
            raise self.malformed(f"it recalls object {index}, which it never stored")
        self.push(self.memo[index], 0)

    def text(self, size: int) -> str:
        """Return the next ``size`` bytes as text."""
        if size > LONGEST_TEXT:
            raise self.too_much(f"a text of {size} bytes")
        self.charge(5 * size)
        try:
            return self.cursor.read(size).decode()
        except UnicodeDecodeError as error:
            raise self.malformed("text that is not UTF-8") from error

    def line(self, limit: int = LONGEST_NAME) -> str:
        """Return the rest of the line as text."""
        try:
            return self.cursor.line(limit).decode()
        except UnicodeDecodeError as error:
            raise self.malformed("text that is not UTF-8") from error

    def number(self, kind: Callable[[str], Any], text: str) -> Any:
        """Read a number that is written out."""
        try:
            return kind(text)
        except ValueError as error:
            raise self.malformed("a number that is none") from error
