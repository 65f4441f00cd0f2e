"""Checkpoints of DiMR (qihao067/DiMR): branches there are stages here, and blocks one list.

The file does not say how many heads its attention has, which no array depends on: 16, as in all
that is published, unless a section says otherwise.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..readers import WeightSource
from .layout import Entry, as_is, conv, linear

Table = dict[str, Entry | None]
TIME_DEPENDENT = {
    "p0": "param0",
    "p1": "param1",
    "slope": "nodecay_weight",
    "offset": "nodecay_bias",
}
NORM = {"scale": "weight", "shift": "bias"}
TELLTALES = {
    "stages.0.blocks.0.block1.query_key_value.weight",
    "stages.0.output_layer.2.weight",
    "stages.0.skip_denses.0.weight",
}


def patches(array: np.ndarray) -> np.ndarray:
    """Return a convolution ``[out, in, p, p]`` of stride p as a matrix of flattened patches."""
    return conv(array).reshape(-1, array.shape[0])


def square(array: np.ndarray) -> np.ndarray:
    """Return a table of places, row by row, as the square that they make."""
    side = math.isqrt(array.shape[0])
    return array.reshape(side, side, -1)


def keys(depths: Sequence[int], num_classes: int = 0, norm: str = "rms") -> Table:
    """Return the place of every published array in a `DiMR` of these fields."""
    table: Table = {}
    for branch, depth in enumerate(depths):
        table |= _branch(f"branches/branch_{branch + 1}", f"stages.{branch}", branch, depth, norm)
    if num_classes:
        place = "branches/branch_1/label_table/embedding"
        table["stages.0.class_embeds.weight"] = Entry(place, as_is)
    return table


def _branch(path: str, name: str, branch: int, depth: int, norm: str) -> Table:
    table = _layer(f"{path}/image_in", f"{name}.input_layer.1", patches)
    places = f"{name}.input_layer.3.position_embeddings.weight"
    table[places] = Entry(f"{path}/positions", square)
    if branch:
        table |= _norm(f"{path}/below_norm", f"{name}.upsample.0", "layer")
        table |= _layer(f"{path}/below_in", f"{name}.upsample.1.kernel", linear)
        table |= _norm(f"{path}/raised_norm", f"{name}.upsample.2", "layer")
    half = depth // 2
    for block in range(depth):
        there = f"{name}.blocks.{block}"
        if block < half:
            here = f"{path}/first/{block}"
        elif block == half:
            here = f"{path}/middle"
        else:
            last = block - half - 1
            table |= _layer(f"{path}/last/{last}/join", f"{name}.skip_denses.{last}", linear)
            here = f"{path}/last/{last}/block"
        table |= _mixing(here, f"{there}.block1", branch, norm)
        table |= _norm(f"{here}/mlp/norm", f"{there}.block2.norm", norm)
        for layer, part in (("gate", "w0"), ("value", "w1"), ("out", "w2")):
            table |= _layer(f"{here}/mlp/{layer}", f"{there}.block2.{part}", linear)
    table |= _norm(f"{path}/head_norm", f"{name}.output_layer.0", "layer")
    return table | _layer(f"{path}/head", f"{name}.output_layer.2", conv)


def _mixing(here: str, there: str, branch: int, norm: str) -> Table:
    if branch:
        return _layer(f"{here}/conv", f"{there}.1", conv)
    table = _norm(f"{here}/norm", f"{there}.norm", norm)
    table[f"{there}.query_key_value.weight"] = Entry(f"{here}/qkv/kernel", linear)
    return table | _layer(f"{here}/proj", f"{there}.dense", linear)


def _layer(path: str, name: str, transform: Callable[[np.ndarray], np.ndarray]) -> Table:
    return {
        f"{name}.weight": Entry(f"{path}/kernel", transform),
        f"{name}.bias": Entry(f"{path}/bias", as_is),
    }


def _norm(path: str, name: str, kind: str) -> Table:
    vectors = NORM if kind == "layer" else {"scale": "scale"}
    return {
        f"{name}.{vector}.{part}": Entry(f"{path}/{ours}/{number}", as_is)
        for ours, vector in vectors.items()
        for number, part in TIME_DEPENDENT.items()
    }


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the DiMR in a file; None where there is none."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    if not shapes.keys() >= TELLTALES:
        return None
    numbers = [re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name) for name in shapes]
    places = {(int(match[1]), int(match[2])) for match in numbers if match}
    branches = 1 + max(branch for branch, _ in places)
    depths = [sum(branch == n for branch, _ in places) for n in range(branches)]
    heads = [shapes.get(f"stages.{n}.output_layer.2.weight", (0, 0)) for n in range(branches)]
    finest = shapes.get(f"stages.{branches - 1}.input_layer.3.position_embeddings.weight", (0,))
    hidden = shapes.get("stages.0.blocks.0.block2.w0.weight", (0, 1))
    channels = heads[0][0]
    fields = dict(
        image_size=math.isqrt(finest[0]),
        channels=channels,
        widths=[width for _, width in (shape[:2] for shape in heads)],
        depths=depths,
        num_classes=shapes.get("stages.0.class_embeds.weight", (1,))[0] - 1,
        mlp_ratio=hidden[0] / hidden[1],
        norm="rms" if "stages.0.blocks.0.block2.norm.scale.param0" in shapes else "layer",
        latent=channels == 4,
    )
    if (kernel := shapes.get("stages.1.blocks.0.block1.1.weight")) is not None:
        fields["kernel_size"] = kernel[-1]
    return fields
