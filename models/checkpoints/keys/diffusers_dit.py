"""DiT under the names of diffusers, ``DiTTransformer2DModel`` and before it ``Transformer2DModel``.

Query, key and value are three layers there, positions are no array, and every block has a copy of
the embeddings of time and label. Weights whose copies agree are those of the authors, converted;
they are read as the authors', whose frequencies of time are spaced over 128 intervals where those
of diffusers are over 127.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.errors import UserError
from ....core.files import Array
from ..readers import WeightSource
from . import said
from .layout import joined

BLOCKS = "transformer_blocks"
EMBEDDINGS = "norm1.emb"
TELLTALE = f"{BLOCKS}.0.{EMBEDDINGS}.class_embedder.embedding_table.weight"
# Theirs to the authors' names (see `keys.dit`).
OUTSIDE = {"pos_embed.proj": "x_embedder.proj", "proj_out_2": "final_layer.linear"}
OUTSIDE |= {"proj_out_1": "final_layer.adaLN_modulation.1"}
BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
SHARED = {
    "timestep_embedder.linear_1.weight": "t_embedder.mlp.0.weight",
    "timestep_embedder.linear_1.bias": "t_embedder.mlp.0.bias",
    "timestep_embedder.linear_2.weight": "t_embedder.mlp.2.weight",
    "timestep_embedder.linear_2.bias": "t_embedder.mlp.2.bias",
    "class_embedder.embedding_table.weight": "y_embedder.embedding_table.weight",
}
KNOWN = {"activation_fn": "gelu-approximate", "norm_type": "ada_norm_zero"}
QUERY_KEY_VALUE = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


def renamed(weights: WeightSource) -> WeightSource | None:
    """Return a file of diffusers under the names of DiT's authors; None for other files.

    Raises:
        UserError: an array that is missing.
    """
    if TELLTALE not in weights.tensors:
        return None
    config = said.arguments(weights)
    for field, known in KNOWN.items():
        if config.get(field, known) != known:
            raise UserError(
                f"{weights.path}: its config says {field}={config[field]!r}, and of diffusers' DiT "
                f"that with {known!r} is read"
            )
    rest: dict[str, Any] = dict(weights.tensors)

    def take(name: str) -> Any:
        if name not in rest:
            raise UserError(f"{weights.path}: {name} of diffusers' DiT is missing")
        return rest.pop(name)

    found: dict[str, Any] = {}
    depth = len({name.split(".")[1] for name in rest if name.startswith(f"{BLOCKS}.")})
    for theirs, ours in SHARED.items():
        copies = [take(f"{BLOCKS}.{block}.{EMBEDDINGS}.{theirs}") for block in range(depth)]
        found[ours] = _the_same(weights, theirs, copies)
    for part in ("weight", "bias"):
        for theirs, ours in OUTSIDE.items():
            found[f"{ours}.{part}"] = take(f"{theirs}.{part}")
        for block in range(depth):
            here, there = f"blocks.{block}", f"{BLOCKS}.{block}"
            for theirs, ours in BLOCK.items():
                found[f"{here}.{ours}.{part}"] = take(f"{there}.{theirs}.{part}")
            three = [take(f"{there}.{name}.{part}") for name in QUERY_KEY_VALUE]
            found[f"{here}.attn.qkv.{part}"] = joined(three)
    description = dataclasses.replace(
        weights.description, format=f"{weights.description.format} of diffusers", computed=True
    )
    return dataclasses.replace(weights, tensors=found | rest, description=description)


def _the_same(weights: WeightSource, name: str, copies: Sequence[Any]) -> Array:
    """Return one of the copies that every block has, all compared when it is read."""

    def read() -> np.ndarray:
        first = copies[0].read()
        for block, copy in enumerate(copies):
            if copy.shape != first.shape or not np.array_equal(copy.read(), first):
                raise UserError(
                    f"{weights.path}: {name} differs between blocks 0 and {block}: each has "
                    f"embeddings of its own, and networks here have one for all"
                )
        return first

    return Array(tuple(copies[0].shape), copies[0].dtype, read)
