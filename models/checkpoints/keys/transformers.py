"""What the tables of the transformers share; their authors started from DiT's names."""

import math
import re
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from ....core.errors import UserError
from ...layers.tokens import sincos_positions
from ...transformers.dit import SIZES
from ..readers import WeightSource
from .layout import Entry, as_is, linear

Table = dict[str, Entry | None]
POSITIONS, PATCHES = "pos_embed", "x_embedder.proj.weight"
IN_BLOCK = re.compile(r"blocks\.(\d+)\.")
# Names outside the blocks that all of them have, with the paths here.
OUTSIDE = {
    "t_embedder.mlp.0": "time_in",
    "t_embedder.mlp.2": "time_out",
    "final_layer.linear": "final",
}
HEADS = {width: heads for _, width, heads in SIZES.values()}


def patches(array: np.ndarray) -> np.ndarray:
    """Return a kernel ``[out, in, row, column]`` of patches as ``[(row, column, in), out]``."""
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def layers(names: Mapping[str, str]) -> Table:
    """Return the entries of linear layers, weight and bias, by their published names."""
    table: Table = {}
    for theirs, ours in names.items():
        table[f"{theirs}.weight"] = Entry(f"{ours}/kernel", linear)
        table[f"{theirs}.bias"] = Entry(f"{ours}/bias", as_is)
    return table


def trunk(depth: int, block: Callable[[str, str], Table]) -> Table:
    """Return the entries that all have in common, and those of each block.

    Args:
        depth: number of blocks.
        block: from a block's published prefix and its path here to its entries.
    """
    table: Table = {POSITIONS: None, **layers(OUTSIDE)}
    table[PATCHES] = Entry("patch_in/kernel", patches)
    table["x_embedder.proj.bias"] = Entry("patch_in/bias", as_is)
    for layer in range(depth):
        table |= block(f"blocks.{layer}", f"blocks/{layer}")
    return table


def sizes(weights: WeightSource) -> dict[str, int]:
    """Return the fields that the shapes of a file's arrays tell.

    ``image_size`` is missing where the file has no positions, and ``heads``, which no shape tells,
    where the width is of no published size.

    Raises:
        UserError: no kernel of square patches.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    kernel = shapes.get(PATCHES, ())
    if len(kernel) != 4 or kernel[2] != kernel[3]:
        raise UserError(
            f"{weights.path}: {PATCHES} is {f'of shape {kernel}' if kernel else 'missing'}: it is "
            f"to be a kernel of square patches, [width, channels, side, side]"
        )
    width, channels, side, _ = kernel
    fields = dict(channels=channels, patch_size=side, width=width)
    fields["depth"] = 1 + max(int(found[1]) for found in map(IN_BLOCK.match, shapes) if found)
    if width in HEADS:
        fields["heads"] = HEADS[width]
    if POSITIONS in shapes:
        fields["image_size"] = side * math.isqrt(shapes[POSITIONS][1])
    return fields


def doubles(weights: WeightSource, fields: Mapping[str, int]) -> bool:
    """Say whether the output has a variance's channels too."""
    outputs = weights.tensors["final_layer.linear.bias"].shape[0]
    return outputs == 2 * fields["channels"] * fields["patch_size"] ** 2


def has_positions(weights: WeightSource, scale: float = 1.0) -> bool:
    """Say whether a file's positions are the fixed ones, divided by ``scale``."""
    tensor = weights.tensors[POSITIONS]
    if len(tensor.shape) != 3 or tensor.dtype.kind in "iub":
        return False
    _, tokens, width = tensor.shape
    grid = math.isqrt(tokens)
    table = sincos_positions(width, grid, grid, (1 / scale, 1 / scale))
    if table[None].shape != tensor.shape:
        return False
    error = np.abs(tensor.read().astype(np.float32) - table).max()
    # As far as the precision of the file, which may be half.
    return bool(error < max(1e-5, float(ml_dtypes.finfo(tensor.dtype).eps)))


def require_positions(weights: WeightSource) -> None:
    """Refuse a file whose positions are not the fixed ones that networks here compute.

    Raises:
        UserError: they differ, or there are none.
    """
    if POSITIONS not in weights.tensors or not has_positions(weights):
        raise UserError(
            f"{weights.path}: {POSITIONS} is not the fixed sine-cosine table of a square grid, "
            f"which is the only one that networks here compute: weights with other positions "
            f"cannot be used"
        )
