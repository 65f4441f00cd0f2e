"""Equal layers, one array each or stacked in one: the two forms that weights are kept in.

A network whose blocks are scanned (``scan_layers``) has ``blocks/mlp/kernel`` with an axis of
layers in front where another has ``blocks/0/mlp/kernel``, ``blocks/1/mlp/kernel`` and so on. A
file may have either form; a network takes what its own form asks for.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

SEPARATOR = "/"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a network's array lies in a file.

    Attributes:
        names: the file's arrays that it is made of.
        layer: which layer of the one stack; None where it is no part of a stack.
        stacks: whether it is the stack of all its names.
    """

    names: tuple[str, ...]
    layer: int | None = None
    stacks: bool = False

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
        """Return its shape, given those of the file's arrays; None where layers do not agree."""
        each = {tuple(shapes[name]) for name in self.names}
        if len(each) > 1:
            return None
        (shape,) = each
        if self.stacks:
            return (len(self.names), *shape)
        if self.layer is None:
            return shape
        return shape[1:] if shape and self.layer < shape[0] else None

    def read(self, array: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return it, given what returns the file's arrays; one layer is in memory at a time."""
        first = array(self.names[0])
        if self.layer is not None:
            return first[self.layer]
        if not self.stacks:
            return first
        whole = np.empty((len(self.names), *first.shape), first.dtype)
        whole[0] = first
        for layer, name in enumerate(self.names[1:], start=1):
            whole[layer] = array(name)
        return whole


def places(wanted: Iterable[str], names: Iterable[str]) -> dict[str, Place | None]:
    """Say where each array of a network is among the arrays of a file.

    Args:
        wanted: paths of a network's arrays.
        names: paths of the file's.

    Returns:
        For every wanted path its place, or None where the file has it in neither form.
    """
    known = set(names)
    layers: dict[str, dict[int, str]] = defaultdict(dict)
    for name in known:
        for stack, layer in _unnumbered(name):
            layers[stack][layer] = name

    def place(path: str) -> Place | None:
        if path in known:
            return Place((path,))
        for stack, layer in _unnumbered(path):
            if stack in known:
                return Place((stack,), layer=layer)
        found = layers.get(path, {})
        if found and sorted(found) == list(range(len(found))):
            return Place(tuple(found[layer] for layer in range(len(found))), stacks=True)
        return None

    return {path: place(path) for path in wanted}


def _unnumbered(name: str) -> Iterator[tuple[str, int]]:
    """Yield a path without one of its numbers, and the number, for every number in it."""
    parts = name.split(SEPARATOR)
    for place, part in enumerate(parts):
        if part.isdigit():
            yield SEPARATOR.join(parts[:place] + parts[place + 1 :]), int(part)
