"""Checkpoints of PixArt-alpha (PixArt-alpha/PixArt-alpha), ``PixArt-XL-2-512x512.pth`` and others.

Their weights are under ``state_dict``, the averaged ones of a training checkpoint under
``state_dict_ema``. Files of diffusers, which split the projections, have other names.
"""

from typing import Any

from ..readers import WeightSource
from .layout import Entry, as_is
from .transformers import POSITIONS, Table, doubles, has_positions, layers, sizes, trunk

OUTSIDE = {
    "t_block.1": "modulation",
    "y_embedder.y_proj.fc1": "text_in",
    "y_embedder.y_proj.fc2": "text_out",
}
MICRO = {
    "csize_embedder.mlp.0": "size_embedding/inside",
    "csize_embedder.mlp.2": "size_embedding/outside",
    "ar_embedder.mlp.0": "ratio_embedding/inside",
    "ar_embedder.mlp.2": "ratio_embedding/outside",
}
BLOCK = {
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/proj",
    "cross_attn.q_linear": "cross_attention/query",
    "cross_attn.kv_linear": "cross_attention/key_value",
    "cross_attn.proj": "cross_attention/proj",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}
NULL = "y_embedder.y_embedding"
# By what the authors divide positions: at 1024 pixels a latent of 128 has them twice as dense.
USUAL_SIDE = 64
SCALES = (1.0, 2.0, 4.0, 0.5)


def keys(depth: int, micro_conditions: bool = False) -> Table:
    """Return the place of every published array in a `PixArt` of these fields."""

    def block(theirs: str, ours: str) -> Table:
        table = layers({f"{theirs}.{a}": f"{ours}/{b}" for a, b in BLOCK.items()})
        return table | {f"{theirs}.scale_shift_table": Entry(f"{ours}/table", as_is)}

    table = trunk(depth, block) | layers(OUTSIDE | (MICRO if micro_conditions else {}))
    table[NULL] = Entry("null_tokens", as_is)
    table["final_layer.scale_shift_table"] = Entry("final_table", as_is)
    return table


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the PixArt in a file; None where it is another network.

    Where the file's positions are the fixed ones at one of `SCALES`, that is its
    ``position_scale``; otherwise it is the authors' for the size, as they discard the positions of
    a file. A file without positions does not tell its ``image_size``, which is then to be given.
    """
    names = weights.tensors.keys()
    wanted = (NULL, "t_block.1.weight", "blocks.0.cross_attn.kv_linear.weight")
    if any(name not in names for name in wanted):
        return None
    fields: dict[str, Any] = sizes(weights)
    if POSITIONS in names:
        found = [scale for scale in SCALES if has_positions(weights, scale)]
        published = max(1.0, fields["image_size"] / USUAL_SIDE)
        fields["position_scale"] = found[0] if found else published
    words, text_width = weights.tensors[NULL].shape
    ratio = weights.tensors["blocks.0.mlp.fc1.weight"].shape[0] / fields["width"]
    return fields | dict(
        tokens=words,
        text_width=text_width,
        mlp_ratio=ratio,
        learn_variance=doubles(weights, fields),
        micro_conditions="csize_embedder.mlp.0.weight" in names,
    )
