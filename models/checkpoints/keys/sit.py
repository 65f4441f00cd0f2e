"""Checkpoints of SiT (willisma/SiT): DiT's arrays under DiT's names (see `keys.dit`)."""

from typing import Any

from ..readers import WeightSource
from .dit import architecture, keys


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the SiT in a file; None where it is another network.

    A file says nothing of its path: it is taken to be the linear one, which the published weights
    are of.

    Raises:
        UserError: its positions are not the fixed ones.
    """
    fields = architecture(weights)
    return None if fields is None else fields | dict(preconditioner="flow")


__all__ = ["keys", "recognise"]
