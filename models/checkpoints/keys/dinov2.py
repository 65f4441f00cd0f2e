"""DINOv2's checkpoints (facebookresearch/dinov2), ``dinov2_vitl14_pretrain.pth`` and its relatives.

Files of transformers' ``Dinov2Model`` and ``Dinov2WithRegistersModel`` are renamed first. The token
that stands for masked patches in training is left out.
"""

import dataclasses
import math
from typing import Any

from ....core.errors import UserError
from ...transformers.dinov2 import SIZES
from ..readers import WeightSource
from . import said
from .layout import Entry, as_is, joined, rows
from .transformers import Table, layers, patches

POSITIONS, PATCHES, REGISTERS = "pos_embed", "patch_embed.proj.weight", "register_tokens"
BLOCK = {"attn.qkv": "attention/qkv", "attn.proj": "attention/proj"}
BLOCK |= {"mlp.fc1": "mlp_in", "mlp.fc2": "mlp_out"}
NORMS = {"norm1": "attention_norm", "norm2": "mlp_norm"}
SCALES = {"ls1.gamma": "attention_scale/scale", "ls2.gamma": "mlp_scale/scale"}
# Of transformers to the authors'.
THEIRS = (
    "embeddings.patch_embeddings.projection.weight",
    "encoder.layer.0.layer_scale1.lambda1",
)
OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": POSITIONS,
    "embeddings.register_tokens": REGISTERS,
    THEIRS[0]: PATCHES,
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
INSIDE = ("mlp.fc1", "mlp.fc2", "norm1", "norm2")
# Query, key, value and output: of the published files, and as release 5 has them.
ATTENTION = (
    *[f"attention.attention.{part}" for part in ("query", "key", "value")],
    "attention.output.dense",
)
RELEASE_5 = tuple(f"attention.{part}_proj" for part in "qkvo")
HEADS = {width: heads for _, width, heads in SIZES.values()}


def keys(depth: int, registers: int = 0) -> Table:
    """Return the place of every published array in a `DINOv2` of these fields."""
    table: Table = {
        "cls_token": Entry("class_token", rows),
        "mask_token": None,
        POSITIONS: Entry("positions", rows),
        PATCHES: Entry("patch_in/kernel", patches),
        "patch_embed.proj.bias": Entry("patch_in/bias", as_is),
        "norm.weight": Entry("norm/scale", as_is),
        "norm.bias": Entry("norm/bias", as_is),
    }
    if registers:
        table[REGISTERS] = Entry("register_tokens", rows)
    for layer in range(depth):
        there, here = f"blocks.{layer}", f"blocks/{layer}"
        table |= layers({f"{there}.{a}": f"{here}/{b}" for a, b in BLOCK.items()})
        for theirs, ours in NORMS.items():
            table[f"{there}.{theirs}.weight"] = Entry(f"{here}/{ours}/scale", as_is)
            table[f"{there}.{theirs}.bias"] = Entry(f"{here}/{ours}/bias", as_is)
        for theirs, ours in SCALES.items():
            table[f"{there}.{theirs}"] = Entry(f"{here}/{ours}", as_is)
    return table


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the DINOv2 in a file; None where it is another network."""
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    if any(name not in shapes for name in (PATCHES, POSITIONS, "cls_token", "blocks.0.ls1.gamma")):
        return None
    width, _, side, _ = shapes[PATCHES]
    grid = math.isqrt(shapes[POSITIONS][1] - 1)
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    fields: dict[str, Any] = dict(patch_size=side, width=width, depth=depth, position_grid=grid)
    heads = said.number(weights, "num_attention_heads") or HEADS.get(width)
    if heads is not None:
        fields["heads"] = heads
    if REGISTERS in shapes:
        fields["registers"] = shapes[REGISTERS][1]
    return fields


def renamed(weights: WeightSource) -> WeightSource | None:
    """Return a file of transformers under the names of the authors; None for other files.

    Raises:
        UserError: an array that is missing.
    """
    if any(name not in weights.tensors for name in THEIRS):
        return None
    rest: dict[str, Any] = dict(weights.tensors)

    def take(name: str) -> Any:
        if name not in rest:
            raise UserError(f"{weights.path}: {name} of transformers' DINOv2 is missing")
        return rest.pop(name)

    found = {ours: take(theirs) for theirs, ours in OUTSIDE.items() if theirs in rest}
    depth = len({name.split(".")[2] for name in rest if name.startswith("encoder.layer.")})
    for layer in range(depth):
        there, here = f"encoder.layer.{layer}", f"blocks.{layer}"
        names = RELEASE_5 if f"{there}.{RELEASE_5[0]}.weight" in rest else ATTENTION
        for part in ("weight", "bias"):
            for name in INSIDE:
                found[f"{here}.{name}.{part}"] = take(f"{there}.{name}.{part}")
            *three, last = (take(f"{there}.{name}.{part}") for name in names)
            found[f"{here}.attn.qkv.{part}"] = joined(three)
            found[f"{here}.attn.proj.{part}"] = last
        for number in (1, 2):
            found[f"{here}.ls{number}.gamma"] = take(f"{there}.layer_scale{number}.lambda1")
    description = dataclasses.replace(
        weights.description, format=f"{weights.description.format} of transformers"
    )
    return dataclasses.replace(weights, tensors=found | rest, description=description)
