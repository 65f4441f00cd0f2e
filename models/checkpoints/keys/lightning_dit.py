"""Checkpoints of LightningDiT (hustvl/LightningDiT), whose averaged weights are under ``ema``.

Names are those of the authors' code as its descendants in public repositories keep them; with
these arrays the published XL/1 has its 675 256 736 parameters, positions among them. The angles of
rotary positions are buffers there, which some files have; networks here compute them.
"""

import math
from typing import Any

import numpy as np

from ....core.errors import UserError
from ...transformers.lightning_dit import rotations
from ..readers import WeightSource
from . import said
from .dit import LABELS
from .layout import Entry, as_is
from .transformers import Table, doubles, layers, require_positions, sizes, trunk

BLOCK = {
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/proj",
    "mlp.w12": "mlp_in",
    "mlp.w3": "mlp_out",
    "adaLN_modulation.1": "modulation",
}
NORMS = {"norm1": "attention_norm", "norm2": "mlp_norm"}
QUERY_KEY_NORMS = {"attn.q_norm": "attention/query_norm", "attn.k_norm": "attention/key_norm"}
ROTATIONS = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")


def keys(depth: int, qk_norm: bool = False) -> Table:
    """Return the place of every published array in a `LightningDiT` of these fields."""
    norms = NORMS | (QUERY_KEY_NORMS if qk_norm else {})

    def block(theirs: str, ours: str) -> Table:
        table = layers({f"{theirs}.{a}": f"{ours}/{b}" for a, b in BLOCK.items()})
        return table | {
            f"{theirs}.{a}.weight": Entry(f"{ours}/{b}/scale", as_is) for a, b in norms.items()
        }

    table = trunk(depth, block) | layers({"final_layer.adaLN_modulation.1": "final_modulation"})
    table[LABELS] = Entry("label_table/embedding", as_is)
    table["final_layer.norm_final.weight"] = Entry("final_norm/scale", as_is)
    return table | dict.fromkeys(ROTATIONS)


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the LightningDiT in a file; None where it is another network.

    Raises:
        UserError: its positions, or the angles of its rotary ones, are not those of networks here.
    """
    names = weights.tensors.keys()
    wanted = (LABELS, "pos_embed", "blocks.0.mlp.w12.weight", "blocks.0.norm1.weight")
    if any(name not in names for name in wanted):
        return None
    require_positions(weights)
    fields: dict[str, Any] = sizes(weights)
    _require_rotations(weights)
    # The gated MLP has two thirds, rounded down, of the usual one's width.
    hidden, width = weights.tensors["blocks.0.mlp.w3.weight"].shape[1], fields["width"]
    usual = 2 * 4 * width // 3 == hidden
    ratio = 4.0 if usual else (math.ceil(1.5 * hidden) + 0.5) / width
    return (
        fields
        | said.classes(weights, LABELS)
        | dict(
            mlp_ratio=ratio,
            qk_norm="blocks.0.attn.q_norm.weight" in names,
            learn_variance=said.variance(weights, doubles(weights, fields)),
            latent=True,
        )
    )


def _require_rotations(weights: WeightSource) -> None:
    for name, which in zip(ROTATIONS, (0, 1), strict=True):
        if name not in weights.tensors:
            continue
        stored = weights.tensors[name].read().astype(np.float32)
        grid, features = math.isqrt(stored.shape[0]), stored.shape[1]
        expected = np.repeat(rotations(features, grid, grid)[which], 2, axis=1)
        if expected.shape != stored.shape or np.abs(stored - expected).max() > 1e-3:
            raise UserError(
                f"{weights.path}: {name} has other angles than rotary positions of {features} "
                f"features on a square grid: weights with other positions cannot be used"
            )
