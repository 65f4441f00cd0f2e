"""Ordinary pickles of weights, as EDM and EDM2 publish them: modules with their source beside.

`pickle.dump(dict(ema=net, ...))` of a network whose classes are persistent (`torch_utils` of those
projects) stores each module as a class name, the source text to execute and the module's state.
Here the text is dropped unread, and the state's parameters and buffers are listed as
``state_dict()`` would list them. A tensor's storage is a bytes object with a legacy torch file in
it.
"""

from typing import Any

from .allowed import NAMES
from .pickle_machine import Allowed, Budget, Machine
from .pickle_vm import interpret
from .records import Storage
from .torch_legacy import read_legacy_object
from .weight_file import Cursor, OpenFile, Span
from .weight_source import WeightSource, from_object

FORM = "pickle"


def read_edm_pickle(opened: OpenFile, entry: str | None) -> WeightSource:
    """Read what a pickle of modules, tensors or arrays holds.

    Args:
        opened: the file.
        entry: as in `open_weights`.

    Raises:
        UserError: damaged, or with what weight files do not hold.
    """
    budget = Budget()

    def load_from_bytes(machine: Machine, arguments: tuple) -> Storage:
        match arguments:
            case (Span() as span,):
                found: Any = read_legacy_object(opened, span, budget)
                if isinstance(found, Storage):
                    return found
            case (bytes(),):
                raise opened.file.refused(
                    "holds its tensors as text (pickle protocol 2 or lower)",
                    "pickle it again with protocol 4",
                )
        raise machine.wrong("torch.storage._load_from_bytes")

    name = "torch.storage._load_from_bytes"
    names = {**NAMES, ("torch.storage", "_load_from_bytes"): Allowed(name, load_from_bytes)}
    return from_object(opened.file, FORM, interpret(Cursor(opened), names, budget), entry)
