"""Checkpoints of DiCo (shallowdream204/DiCo): one set of names, 1x1 convolutions for all that mix.

The file does not say how large an image the network is for, which no array depends on: 32x32, the
latents of the published weights, unless a section says otherwise.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..readers import WeightSource
from . import said
from .layout import Entry, as_is, conv, linear

# Stages here and there, in the order of a network's depths.
STAGES = {
    "encoder_1": "encoder_level_1",
    "encoder_2": "encoder_level_2",
    "middle": "latent",
    "decoder_2": "decoder_level_2",
    "decoder_1": "decoder_level_1",
}
IMAGE_SIZE = 32
STEM, HIDDEN, FINAL = (
    f"{name}.weight" for name in ("x_embedder.proj", "latent.0.conv4", "final_layer.out_proj")
)
LABELS = "y_embedder.embedding_table_0.weight"
TELLTALES = {STEM, HIDDEN, FINAL, "up3_2.body.0.weight"}


def pointwise(array: np.ndarray) -> np.ndarray:
    """Return the kernel ``[out, in, 1, 1]`` of a 1x1 convolution as ``[in, out]``."""
    return array[:, :, 0, 0].T


# Layers of a block here, and their names and layouts there.
BLOCK = {
    "conv_in": ("conv1", pointwise),
    "conv": ("conv2", conv),
    "attention/linear": ("ca.1", pointwise),
    "conv_out": ("conv3", pointwise),
    "mlp_in": ("conv4", pointwise),
    "mlp_out": ("conv5", pointwise),
    "modulation": ("adaLN_modulation.1", linear),
}
LAYERS = {
    "stem": ("x_embedder.proj", conv),
    "join_2": ("reduce_chan_level2", pointwise),
    "join_1": ("reduce_chan_level1", pointwise),
    "final": ("final_layer.out_proj", conv),
    "final_modulation": ("final_layer.adaLN_modulation.1", linear),
}
RESAMPLING = {"down_1": "down1_2", "down_2": "down2_3", "up_2": "up3_2", "up_1": "up2_1"}


def keys(depths: Sequence[int], num_classes: int = 0) -> dict[str, Entry | None]:
    """Return the place of every published array in a `DiCo` of these fields."""
    layers = dict(LAYERS)
    for n in range(3):
        layers[f"time/{n}/first"] = (f"t_embedder_{n + 1}.mlp.0", linear)
        layers[f"time/{n}/last"] = (f"t_embedder_{n + 1}.mlp.2", linear)
    for (stage, name), depth in zip(STAGES.items(), depths, strict=True):
        for block in range(depth):
            for layer, (part, transform) in BLOCK.items():
                layers[f"{stage}/{block}/{layer}"] = (f"{name}.{block}.{part}", transform)
    table: dict[str, Entry | None] = {}
    for path, (name, transform) in layers.items():
        table[f"{name}.weight"] = Entry(f"{path}/kernel", transform)
        table[f"{name}.bias"] = Entry(f"{path}/bias", as_is)
    for path, name in RESAMPLING.items():
        table[f"{name}.body.0.weight"] = Entry(f"{path}/kernel", conv)
    if num_classes:
        for n in range(3):
            name = f"y_embedder.embedding_table_{n}.weight"
            table[name] = Entry(f"label_tables/{n}/embedding", as_is)
    return table


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the DiCo in a file; None where there is none."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    if not shapes.keys() >= TELLTALES:
        return None
    width, channels = shapes[STEM][:2]
    hidden, inside = shapes[HIDDEN][:2]
    return dict(
        image_size=IMAGE_SIZE,
        channels=channels,
        width=width,
        depths=[_blocks(shapes, name) for name in STAGES.values()],
        **(said.classes(weights, LABELS) if LABELS in shapes else {"num_classes": 0}),
        mlp_ratio=hidden / inside,
        learn_variance=shapes[FINAL][0] == 2 * channels,
        latent=channels == 4,
    )


def _blocks(shapes: dict[str, tuple[int, ...]], stage: str) -> int:
    names = (re.fullmatch(rf"{stage}\.(\d+)\.conv1\.weight", name) for name in shapes)
    return 1 + max((int(match[1]) for match in names if match), default=-1)
