"""What every data set looks like to the input pipeline: random access to examples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int, Num, UInt8


class Records(Protocol):
    """Random access to examples on disk."""

    def __len__(self) -> int: ...

    def read(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Num[np.ndarray, "batch ..."], Int[np.ndarray, " batch"]]:
        """Return the arrays at ``indices``, as stored, and their labels, int32."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set, in memory (``images`` and ``labels``) or read as needed (``records``).

    Attributes:
        name: as in ``config.data.name``.
        shape: of one example: (height, width, channels), or (2,) for points.
        num_classes: labels are 0 to ``num_classes - 1``.
        images: every example; uint8 pixels, or float32 values that are left as they are.
        labels: every label.
        records: stands in for both where the set is too large for memory.
        draw: of a set whose examples are drawn anew each time they are visited: from what is
            stored and unit normal noise ``[batch, *shape]`` to examples. None for other sets.
    """

    name: str
    shape: tuple[int, ...]
    num_classes: int
    images: UInt8[np.ndarray, "examples ..."] | Float[np.ndarray, "examples ..."] | None = None
    labels: Int[np.ndarray, " examples"] | None = None
    records: Records | None = None
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    @property
    def num_examples(self) -> int:
        """Return how many examples one epoch has."""
        return len(self.records if self.images is None else self.images)

    def read(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Num[np.ndarray, "batch ..."], Int[np.ndarray, " batch"]]:
        """Return the examples at ``indices``, as stored, and their labels."""
        if self.images is not None:
            return self.images[indices], self.labels[indices]
        return self.records.read(indices)
