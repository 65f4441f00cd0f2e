"""CLIP's image tower under transformers' names, alone or beside the text's in one file.

``openai/clip-vit-base-patch32`` and its relatives. The authors' own files are programs, which are
not read.
"""

import dataclasses
import math
from typing import Any

from ...transformers.clip import SIZES
from ..readers import WeightSource
from . import said
from .layout import Entry, as_is, joined, linear, rows
from .transformers import Table, layers, patches

PREFIX = "vision_model."
PATCHES = f"{PREFIX}embeddings.patch_embedding.weight"
POSITIONS = f"{PREFIX}embeddings.position_embedding.weight"
PROJECTION = "visual_projection.weight"
LAYER = f"{PREFIX}encoder.layers."
NORMS = {"layer_norm1": "attention_norm", "layer_norm2": "mlp_norm"}
# The name of the norm in front has been published with this mistake.
OUTER = {"pre_layrnorm": "norm_in", "post_layernorm": "norm"}
BLOCK = {"self_attn.qkv": "attention/qkv", "self_attn.out_proj": "attention/proj"}
BLOCK |= {"mlp.fc1": "mlp_in", "mlp.fc2": "mlp_out"}
HEADS = {width: heads for _, _, width, heads, _ in SIZES.values()}


def keys(depth: int) -> Table:
    """Return the place of every published array in a `CLIPImage` of this depth."""
    table: Table = {
        f"{PREFIX}embeddings.class_embedding": Entry("class_token", rows),
        f"{PREFIX}embeddings.position_ids": None,
        PATCHES: Entry("patch_kernel", patches),
        POSITIONS: Entry("positions", as_is),
        PROJECTION: Entry("projection", linear),
    }
    norms = {f"{PREFIX}{theirs}": ours for theirs, ours in OUTER.items()}
    for layer in range(depth):
        there, here = f"{LAYER}{layer}", f"blocks/{layer}"
        table |= layers({f"{there}.{a}": f"{here}/{b}" for a, b in BLOCK.items()})
        norms |= {f"{there}.{a}": f"{here}/{b}" for a, b in NORMS.items()}
    for theirs, ours in norms.items():
        table[f"{theirs}.weight"] = Entry(f"{ours}/scale", as_is)
        table[f"{theirs}.bias"] = Entry(f"{ours}/bias", as_is)
    return table


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the tower in a file; None where it is another network."""
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    if any(name not in shapes for name in (PATCHES, POSITIONS, PROJECTION)):
        return None
    width, _, side, _ = shapes[PATCHES]
    depth = len({name.split(".")[3] for name in shapes if name.startswith(LAYER)})
    fields: dict[str, Any] = dict(patch_size=side, width=width, depth=depth)
    fields["image_size"] = side * math.isqrt(shapes[POSITIONS][0] - 1)
    fields["output"] = shapes[PROJECTION][0]
    heads = said.number(weights, "num_attention_heads") or HEADS.get(width)
    return fields if heads is None else fields | {"heads": heads}


def renamed(weights: WeightSource) -> WeightSource | None:
    """Return the image tower of a file with query, key and value as one; None for other files."""
    if PATCHES not in weights.tensors:
        return None
    kept: dict[str, Any] = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if name.startswith(PREFIX) or name == PROJECTION
    }
    left_out = ("text_model.*",) if len(kept) < len(weights.tensors) else ()
    for query in [name for name in kept if ".self_attn.q_proj." in name]:
        names = [query.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(name in kept for name in names):
            kept[query.replace(".q_proj.", ".qkv.")] = joined([kept.pop(name) for name in names])
    about = weights.description
    description = dataclasses.replace(about, left_out=(*about.left_out, *left_out))
    return dataclasses.replace(weights, tensors=kept, description=description)
