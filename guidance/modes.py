"""The protocol of forward modes: how a branch perturbs a network's forward pass.

A network offers *sites*, places in its forward pass where a mode may step in, and knows nothing
of the modes themselves; a mode is a pytree that says which site it uses and what it does there.
Its leaves are numbers shared by the batch, or arrays with one entry a sample (random keys).

A network is handed the modes as a tuple of `Active`: several branches share one batch, and each
mode holds for some of its samples alone.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float


@runtime_checkable
class Mode(Protocol):
    """A perturbation of a network's forward pass.

    It defines the one method that is named like its site:

    ``time_embedding(embedding)``: the embedding of the noise level, ``[batch, width]``, before
    anything is added to it.

    ``condition_embedding(embedding, table)``: the condition's embedding ``[batch, width]``, with
    the table ``[rows, width]`` it was taken from (None where there is none).

    ``attention(attend, query, key, value, grid)``: inside a self-attention layer, after the heads
    are split and before the output projection. Query, key and value are ``[batch, token, head,
    feature]``, tokens row by row of a ``grid`` of (rows, columns); ``attend(query, key, value)``
    is the plain attention.

    ``block(run, tokens)``: around a whole block, ``tokens`` being its input and ``run(tokens)``
    its output.

    Attributes:
        name: what messages and predictions call it.
        site: one of the four above.
        layers: the layers it holds in, for the last two sites; None at the others.
    """

    name: ClassVar[str]
    site: ClassVar[str]

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layers it holds in."""


class Active(NamedTuple):
    """A mode and the samples of a batch that it holds for; None means all of them."""

    mode: Mode
    where: Bool[Array | np.ndarray, " batch"] | None


def checked_layers(owner: str, layers) -> tuple[int, ...]:
    """Return layers as a tuple of distinct integers in increasing order.

    Raises:
        ValueError: empty, not integers, or negative, in the name of ``owner``.
    """
    chosen = tuple(layers) if hasattr(layers, "__iter__") else (layers,)
    whole = all(hasattr(n, "__index__") and not isinstance(n, bool) for n in chosen)
    if not chosen or not whole or min(chosen) < 0:
        raise ValueError(
            f"guidance.{owner}: layers must be block numbers counted from 0, such as (3, 4), "
            f"got {layers!r}"
        )
    return tuple(sorted({int(n) for n in chosen}))


Attend = Callable[[Array, Array, Array], Float[Array, "batch token head feature"]]
