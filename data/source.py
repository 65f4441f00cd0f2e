"""What every data set looks like to the input pipeline: random access to examples."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int, Num, UInt8

from ..core.constructors import origin
from ..core.files import digest_of_parts

# Of records that say nothing of what they are, this many are read to tell one set from another.
SAMPLED_RECORDS = 64
# How examples that are taken as they are were prepared.
AS_STORED = {"resize": "none", "crop": "none", "rounding": "none"}


@runtime_checkable
class Records(Protocol):
    """Random access to examples on disk."""

    def __len__(self) -> int: ...

    def read(self, indices: Int[np.ndarray, " batch"]) -> tuple[Num[np.ndarray, "batch ..."], Any]:
        """Return the arrays at ``indices``, as stored, and their conditions."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Source:
    """A data set, in memory (``x`` and ``condition``) or read as needed (``records``).

    Attributes:
        name: what messages call it.
        shape: of one example: (height, width, channels), or (2,) for points.
        num_classes: labels are 0 to ``num_classes - 1``; 0 for a set without labels.
        x: every example; uint8 pixels, or float32 values that are left as they are.
        condition: what goes with every example: int32 labels, a pytree of arrays
            ``[examples, ...]``, or None.
        records: stands in for both where the set is too large for memory.
        draw: of a set whose examples are drawn anew each time they are visited: from what is
            stored and unit normal noise ``[batch, *shape]`` to examples. None for other sets.
        facts: returns JSON data that says what the set is made of, whatever its path or name; a
            digest of the arrays stands in where None.
        prepared: how examples were made of what was published: resize, crop and rounding.

    Raises:
        ValueError: neither arrays nor records, or conditions of another number than examples.
    """

    name: str
    shape: tuple[int, ...]
    num_classes: int = 0
    x: UInt8[np.ndarray, "examples ..."] | Float[np.ndarray, "examples ..."] | None = None
    condition: Any = None
    records: Records | None = None
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    facts: Callable[[], Mapping[str, Any]] | None = None
    prepared: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(AS_STORED))

    def __post_init__(self):
        if (self.x is None) == (self.records is None):
            raise ValueError(f"{self.name}: a data set has either x or records")
        if self.x is None:
            return
        if self.draw is None and tuple(self.x.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"{self.name}: examples are of shape {self.x.shape[1:]}, not {self.shape}"
            )
        for leaf in jax.tree.leaves(self.condition):
            if len(leaf) != len(self.x):
                raise ValueError(
                    f"{self.name}: {len(leaf)} conditions cannot go with {len(self.x)} examples"
                )

    def __repr__(self) -> str:
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"Source({self.name}: {self.num_examples:,} examples of {self.shape}{classes})"

    @property
    def num_examples(self) -> int:
        """Return how many examples one epoch has."""
        return len(self.records if self.x is None else self.x)

    def read(self, indices: Int[np.ndarray, " batch"]) -> tuple[Num[np.ndarray, "batch ..."], Any]:
        """Return the examples at ``indices``, as stored, and their conditions."""
        if self.x is None:
            return self.records.read(indices)
        return self.x[indices], jax.tree.map(lambda leaf: leaf[indices], self.condition)

    def identity(self) -> dict[str, Any]:
        """Return JSON data that is equal for sets of equal content, and for no others.

        Neither name nor path nor dates are part of it, so that a set may be moved. The code of a
        set from outside is, where its contents are not read whole.
        """
        common: dict[str, Any] = {
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "examples": self.num_examples,
        }
        known = origin(self)
        if known is not None and (self.facts or self.draw or self.x is None):
            common |= known.constructor.written_in
        if self.facts is not None:
            return json.loads(json.dumps(common | dict(self.facts())))
        if self.x is not None:
            return common | {"content": content_digest((self.x, self.condition))}
        count = min(SAMPLED_RECORDS, self.num_examples)
        spread = np.unique(np.linspace(0, self.num_examples - 1, count).round().astype(int))
        return common | {"content": content_digest(self.records.read(spread))}


def content_digest(tree: Any) -> str:
    """Return the SHA-256 of a pytree of arrays: their places in it, types, shapes and bytes."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    leaves = ((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in paths)
    parts = ((f"{name} {array.dtype} {array.shape}", array) for name, array in leaves)
    return digest_of_parts(itertools.chain.from_iterable(parts))
