"""Checkpoints of SiT (willisma/SiT): DiT's arrays under DiT's names (see `keys.dit`).

Those of REPA (sihyun-yu/REPA) are SiTs whose time is that of the noise, with projections to the
features of another network beside them, which only training has a use for.
"""

from collections.abc import Collection
from typing import Any

from ..readers import WeightSource
from . import said
from .dit import architecture
from .dit import keys as keys_of_dit
from .transformers import Table

# Their paths by the words of SiT's and of REPA's arguments.
PATHS = {"linear": "linear", "gvp": "gvp", "cosine": "gvp", "vp": "vp"}
PREDICTIONS = ("velocity", "v")
PROJECTIONS = "projectors."
OF_REPA = ("proj_coeff", "enc_type", "encoder_depth")


def keys(depth: int, names: Collection[str] = ()) -> Table:
    """Return the place of every published array in a `SiT` of this depth.

    Args:
        depth: of the network.
        names: those of the file, which may have REPA's projections.
    """
    return keys_of_dit(depth) | {name: None for name in names if name.startswith(PROJECTIONS)}


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the SiT in a file; None where it is another network.

    The path is what the training's arguments say; where a file has none, the linear one, which the
    published weights are of.

    Raises:
        UserError: its positions are not the fixed ones.
    """
    fields = architecture(weights)
    return None if fields is None else fields | dict(preconditioner=_preconditioner(weights))


def _preconditioner(weights: WeightSource) -> Any:
    path, predicts = said.word(weights, "path_type"), said.word(weights, "prediction")
    if path not in (None, *PATHS):
        return said.unknown(weights, f"follows the path {path!r}")
    if predicts not in (None, *PREDICTIONS):
        return said.unknown(weights, f"predicts {predicts!r}, and not the velocity of its path")
    found = {} if path is None or PATHS[path] == "linear" else {"path": PATHS[path]}
    projects = any(name.startswith(PROJECTIONS) for name in weights.tensors)
    if projects or any(name in said.arguments(weights) for name in OF_REPA):
        found["time"] = "to_noise"
    return {"name": "flow"} | found if found else "flow"
