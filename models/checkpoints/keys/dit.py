"""Checkpoints of DiT (facebookresearch/DiT), ``DiT-XL-2-256x256.pt`` and those of its training.

SiT's have the same arrays under the same names. A training checkpoint says in its arguments whose
it is; of any other file, one called ``SiT...`` is taken for a SiT's. ``name="sit"`` in
`models.load` says so otherwise.
"""

from collections.abc import Mapping
from typing import Any

from ..readers import WeightSource
from .layout import Entry, as_is
from .transformers import Table, doubles, layers, require_positions, sizes, trunk

BLOCK = {
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/proj",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
    "adaLN_modulation.1": "modulation",
}
LABELS = "y_embedder.embedding_table.weight"
# A file of these has all of them, and no normalisation with weights.
TELLTALES = (LABELS, "final_layer.adaLN_modulation.1.weight", "pos_embed")
TELLTALES += tuple(f"blocks.0.{name}.weight" for name in BLOCK)
FOREIGN = ("blocks.0.norm1.weight", "feat_rope.freqs_cos", "blocks.0.cross_attn.proj.weight")


def keys(depth: int) -> Table:
    """Return the place of every published array in a `DiT` of this depth."""

    def block(theirs: str, ours: str) -> Table:
        return layers({f"{theirs}.{a}": f"{ours}/{b}" for a, b in BLOCK.items()})

    table = trunk(depth, block) | layers({"final_layer.adaLN_modulation.1": "final_modulation"})
    return table | {LABELS: Entry("label_table/embedding", as_is)}


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the DiT in a file; None where it is another network.

    Raises:
        UserError: its positions are not the fixed ones.
    """
    if is_sit(weights) or (fields := architecture(weights)) is None:
        return None
    return fields | dict(preconditioner="discrete")


def architecture(weights: WeightSource) -> dict[str, Any] | None:
    """Return the fields of a DiT or a SiT; None where a file is of another network.

    Raises:
        UserError: its positions are not the fixed ones.
    """
    names = weights.tensors.keys()
    if any(name not in names for name in TELLTALES) or any(name in names for name in FOREIGN):
        return None
    require_positions(weights)
    fields: dict[str, Any] = sizes(weights)
    fields["num_classes"] = weights.tensors[LABELS].shape[0] - 1
    ratio = weights.tensors["blocks.0.mlp.fc1.weight"].shape[0] / fields["width"]
    return fields | dict(
        mlp_ratio=ratio, learn_variance=doubles(weights, fields), latent=fields["channels"] == 4
    )


def is_sit(weights: WeightSource) -> bool:
    """Say whether a file is of a SiT, as its training's arguments or its own name say."""
    arguments = weights.metadata.get("args")
    if isinstance(arguments, Mapping) and isinstance(arguments.get("model"), str):
        return arguments["model"].lower().startswith("sit")
    return weights.path.name.lower().startswith("sit")
