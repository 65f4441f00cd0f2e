"""Names and layouts of the autoencoder of Stable Diffusion (sd-vae-ft-mse, -ema, kl-f8).

Three sets of names are in use: diffusers' own, those that it had before release 0.15 (its
published files still have them: ``query`` for ``to_q``), and those of the original code.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ....core.errors import UserError
from ....core.files import Array
from ..readers import WeightSource
from . import said
from .layout import Entry, as_is, conv

GROUPS = 32
# Ours to diffusers' names inside a residual block; the original code's differ in the shortcut.
RESIDUAL = {
    "first/norm": "norm1",
    "first/conv": "conv1",
    "second/norm": "norm2",
    "second/conv": "conv2",
    "shortcut": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v"}
ATTENTION_NAMES = {
    "diffusers": ATTENTION | {"out": "to_out.0"},
    "old": {"norm": "group_norm", "query": "query", "key": "key", "value": "value"}
    | {"out": "proj_attn"},
    "original": {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"},
}
# The array that tells which names a file has.
TELLTALE = {
    "encoder.mid_block.attentions.0.to_q.weight": "diffusers",
    "encoder.mid_block.attentions.0.query.weight": "old",
    "encoder.mid.attn_1.q.weight": "original",
}


# Absent where latents are what the encoder makes, as in Stable Diffusion 3.
QUANT = {"quant": "quant_conv", "post_quant": "post_quant_conv"}


def naming(names: Collection[str]) -> str | None:
    """Return which set of names a file has: diffusers, old or original; None for none of them."""
    return next((form for name, form in TELLTALE.items() if name in names), None)


def recognise(weights: WeightSource) -> dict | None:
    """Return channels, widths and depth, as the arrays' shapes say them."""
    form = naming(weights.tensors)
    if form is None:
        return None
    down = "encoder.down.{}.block.{}" if form == "original" else "encoder.down_blocks.{}.resnets.{}"
    groups = said.number(weights, "norm_num_groups")
    if groups not in (None, GROUPS):
        raise UserError(
            f"{weights.path}: its config says norm_num_groups={groups}, and autoencoders here "
            f"normalise in {GROUPS} groups"
        )
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    widths: list[int] = []
    while (first := f"{down.format(len(widths), 0)}.conv1.weight") in shapes:
        widths.append(shapes[first][0])
    depth = sum(f"{down.format(0, block)}.conv1.weight" in shapes for block in range(16))
    return {
        "channels": shapes["encoder.conv_in.weight"][1],
        "latent_channels": shapes["encoder.conv_out.weight"][0] // 2,
        "block_out_channels": tuple(widths),
        "layers_per_block": depth,
    }


def keys(
    names: Collection[str],
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
) -> dict[str, Entry]:
    """Return every published name with its path here, under the names that the file has."""
    form = naming(names) or "diffusers"
    places = {ours: theirs for ours, theirs in QUANT.items() if f"{theirs}.weight" in names}
    for half, blocks in (("encoder", layers_per_block), ("decoder", layers_per_block + 1)):
        for ours, theirs in _half(half, form, tuple(block_out_channels), blocks):
            places[f"{half}/{ours}"] = f"{half}.{theirs}"
    table: dict[str, Entry] = {}
    for ours, theirs in places.items():
        part = ours.rpartition("/")[2]
        if part == "norm":
            kernel, layout = "scale", as_is
        elif part in ("query", "key", "value", "out"):
            kernel, layout = "kernel", _matrix
        else:
            kernel, layout = "kernel", conv
        table[f"{theirs}.weight"] = Entry(f"{ours}/{kernel}", layout)
        table[f"{theirs}.bias"] = Entry(f"{ours}/bias", as_is)
    return table


def absent(weights: WeightSource, section: Mapping[str, Any]) -> dict[str, Array]:
    """Return what stands for the convolutions between encoder, latents and decoder: identities."""
    latent = section["latent_channels"]
    found: dict[str, Array] = {}
    for (ours, theirs), width in zip(QUANT.items(), (2 * latent, latent), strict=True):
        if f"{theirs}.weight" not in weights.tensors:
            found[f"{ours}/kernel"] = _kept(np.eye(width, dtype=np.float32)[None, None])
            found[f"{ours}/bias"] = _kept(np.zeros(width, np.float32))
    return found


def _kept(value: np.ndarray) -> Array:
    return Array(value.shape, value.dtype, lambda: value)


def _half(half: str, form: str, widths: tuple[int, ...], blocks: int) -> Iterator[tuple[str, str]]:
    """Yield (ours, theirs) for every layer of the encoder or the decoder."""
    original = form == "original"
    yield "conv_in", "conv_in"
    yield "out/norm", "norm_out" if original else "conv_norm_out"
    yield "out/conv", "conv_out"
    middle = ("mid.block_1", "mid.attn_1", "mid.block_2")
    if not original:
        middle = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
    for ours, theirs in zip(("before", "after"), middle[::2], strict=True):
        for layer in _residual(original, shortcut=False):
            yield f"middle/{ours}/{layer[0]}", f"{theirs}.{layer[1]}"
    for ours, theirs in ATTENTION_NAMES[form].items():
        yield f"middle/attention/{ours}", f"{middle[1]}.{theirs}"
    # Stages are numbered in the order of the computation, but in the original code's decoder, whose
    # numbers are those of the resolutions.
    order = widths if half == "encoder" else widths[::-1]
    before = order[0]
    for stage, width in enumerate(order):
        number = len(order) - 1 - stage if original and half == "decoder" else stage
        kind = {"encoder": "down", "decoder": "up"}[half]
        theirs = f"{kind}.{number}" if original else f"{kind}_blocks.{number}"
        for block in range(blocks):
            shortcut = block == 0 and before != width
            for layer in _residual(original, shortcut=shortcut):
                inside = f"block.{block}" if original else f"resnets.{block}"
                yield f"stages/{stage}/blocks/{block}/{layer[0]}", f"{theirs}.{inside}.{layer[1]}"
        if stage < len(order) - 1:
            inside = f"{kind}sample.conv" if original else f"{kind}samplers.0.conv"
            yield f"stages/{stage}/resample/conv", f"{theirs}.{inside}"
        before = width


def _residual(original: bool, *, shortcut: bool) -> Iterator[tuple[str, str]]:
    for ours, theirs in RESIDUAL.items():
        if ours != "shortcut":
            yield ours, theirs
        elif shortcut:
            yield ours, "nin_shortcut" if original else theirs


def _matrix(array: np.ndarray) -> np.ndarray:
    """Return a matrix ``[out, in]``, or a 1x1 kernel of it, as ``[in, out]``."""
    return array.reshape(array.shape[:2]).T
