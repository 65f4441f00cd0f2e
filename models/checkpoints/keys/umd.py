"""Arrays of UMD by the names of the authors' code (philippe-eecs/small-vision, in flax.linen).

The authors have published no weights. Their training writes the tree of parameters that this
table is of; a file of it that is read here has the tree's paths, joined by slashes, for names.
"""

import math
import re
from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np

from ..readers import WeightSource
from .layout import Entry, as_is

Table = dict[str, Entry | None]
STACKED = "ScanCheckpointEncoder1DBlock_0"
MASK, CONV = "image_mask_embedding", "final_conv/kernel"
ATTENTION = "MultiHeadDotProductAttention_0"
# Layers of a block here and there.
NORMS = {"attention_norm": "LayerNorm_0", "mlp_norm": "LayerNorm_1"}
DENSE = {"modulation": "Dense_0", "mlp_in": "MlpBlock_0/Dense_0", "mlp_out": "MlpBlock_0/Dense_1"}


def flat_heads(array: np.ndarray) -> np.ndarray:
    """Return ``[..., heads, features]`` as ``[..., heads * features]``."""
    return array.reshape(*array.shape[:-2], -1)


def flat_inputs(array: np.ndarray) -> np.ndarray:
    """Return ``[..., heads, features, out]`` as ``[..., heads * features, out]``."""
    return array.reshape(*array.shape[:-3], -1, array.shape[-1])


def first(array: np.ndarray) -> np.ndarray:
    """Return ``[1, ...]`` without its batch of one."""
    return array[0]


def patches(array: np.ndarray) -> np.ndarray:
    """Return a convolution ``[p, p, in, out]`` of stride p as a matrix of flattened patches."""
    return array.reshape(-1, array.shape[-1])


def noise_first(array: np.ndarray, axis: int) -> np.ndarray:
    """Return channels of the clean image, then of the noise, in the other order."""
    return np.roll(array, array.shape[axis] // 2, axis)


def raised(array: np.ndarray) -> np.ndarray:
    """Return a transposed convolution ``[p, p, in, out]`` as the matrix that makes patches."""
    # A transposed convolution goes through its kernel backwards.
    kernel = noise_first(array[::-1, ::-1], -1).transpose(2, 0, 1, 3)
    return kernel.reshape(kernel.shape[0], -1)


def keys(
    depth: int, decoder_depth: int, num_classes: int = 0, names: Collection[str] = ()
) -> Table:
    """Return the place of every array of the authors' tree in a `UMD` of these fields.

    Args:
        depth, decoder_depth, num_classes: of the network.
        names: those of the file, which has its blocks stacked or one by one.
    """
    table: Table = {
        "cls": Entry("summary", first),
        "pos_embedding": Entry("positions", first),
        "dec_pos_embedding": Entry("decoder_positions", first),
        MASK: Entry("hidden", lambda array: array[0, 0]),
        "embedding/kernel": Entry("patch_in/kernel", patches),
        "embedding/bias": Entry("patch_in/bias", as_is),
        CONV: Entry("final/kernel", raised),
        "final_conv/bias": Entry("final_bias", partial(noise_first, axis=-1)),
    }
    table |= _layer("final_modulation", "final_modulation")
    trunks = {"time": "time_trunk"}
    if num_classes:
        table["label_emb/embedding/embedding"] = Entry("label_table/embedding", as_is)
        trunks["label"] = "label_trunk"
    for path, name in trunks.items():
        table |= _layer(f"{path}/first", f"{name}/Dense_0")
        table |= _layer(f"{path}/last", f"{name}/Dense_1")
    for path, blocks in (("encoder", depth), ("decoder", decoder_depth)):
        name = path.capitalize()
        table |= _layer(f"{path}_norm", f"{name}/encoder_norm", "scale")
        if any(one.startswith(f"{name}/{STACKED}/") for one in names):
            table |= _block(path, f"{name}/{STACKED}")
        else:
            for block in range(blocks):
                table |= _block(f"{path}/{block}", f"{name}/Encoder1DBlock_{block}")
    return table


def _block(path: str, name: str) -> Table:
    table: Table = {}
    for layer, part in NORMS.items():
        table |= _layer(f"{path}/{layer}", f"{name}/{part}", "scale")
    for layer, part in DENSE.items():
        table |= _layer(f"{path}/{layer}", f"{name}/{part}")
    for part in ("query", "key", "value", "out"):
        here, there = f"{path}/attention/{part}", f"{name}/{ATTENTION}/{part}"
        kernel, bias = (flat_inputs, as_is) if part == "out" else (flat_heads, flat_heads)
        table[f"{there}/kernel"] = Entry(f"{here}/kernel", kernel)
        table[f"{there}/bias"] = Entry(f"{here}/bias", bias)
    return table


def _layer(path: str, name: str, weight: str = "kernel") -> Table:
    return {f"{name}/{part}": Entry(f"{path}/{part}", as_is) for part in (weight, "bias")}


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the UMD in a file; None where there is none."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    if not shapes.keys() >= {MASK, CONV, "pos_embedding", "cls"}:
        return None
    patch_size, _, width, out = shapes[CONV]
    side = math.isqrt(shapes["pos_embedding"][1]) * patch_size
    heads = [
        shape[-2] for name, shape in shapes.items() if name.endswith(f"{ATTENTION}/query/kernel")
    ]
    hidden = [
        shape[-1] for name, shape in shapes.items() if name.endswith("MlpBlock_0/Dense_0/kernel")
    ]
    return dict(
        image_size=side,
        channels=out // 2,
        patch_size=patch_size,
        width=width,
        depth=_blocks(shapes, "Encoder"),
        decoder_depth=_blocks(shapes, "Decoder"),
        heads=heads[0] if heads else 1,
        num_classes=shapes.get("label_emb/embedding/embedding", (1,))[0] - 1,
        mlp_ratio=hidden[0] / width if hidden else 4.0,
        summaries=shapes["cls"][1],
        latent=out == 8,
    )


def _blocks(shapes: dict[str, tuple[int, ...]], part: str) -> int:
    if (stacked := shapes.get(f"{part}/{STACKED}/Dense_0/bias")) is not None:
        return stacked[0]
    return sum(
        re.fullmatch(rf"{part}/Encoder1DBlock_\d+/Dense_0/bias", name) is not None
        for name in shapes
    )
