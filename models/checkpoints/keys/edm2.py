"""Checkpoints of EDM2 (NVlabs/edm2): config G inside ``Precond``."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...unets.edm2 import edm2_arrangement
from ...unets.stages import Stage
from ..readers import WeightSource
from .layout import Entry, as_is, conv, linear

Table = dict[str, Entry | None]
INSIDE = "unet."
FIRST = re.compile(r"unet\.enc\.(\d+)x\1_conv\.weight")
# Numbers that the published modules keep as attributes, by their names here.
OF_WRAPPER = {"sigma_data": "sigma_data"}
OF_NETWORK = {"label_balance": "label_balance", "concat_balance": "concat_balance"}
OF_BLOCK = {
    "dropout": "dropout",
    "res_balance": "res_balance",
    "attn_balance": "attn_balance",
    "clip": "clip_act",
}


def keys(
    image_size: int,
    num_classes: int = 0,
    model_channels: int = 192,
    channel_mult: Sequence[int] = (1, 2, 3, 4),
    num_blocks: int = 3,
    attn_resolutions: Sequence[int] = (16, 8),
) -> Table:
    """Return the place of every published array in an `EDM2UNet` of these fields."""
    arrangement = edm2_arrangement(
        image_size, model_channels, channel_mult, num_blocks, attn_resolutions
    )
    table = _array("out_gain") | _fourier("emb_fourier") | _layer("emb_noise", linear)
    if num_classes:
        table |= _layer("emb_label", linear)
    table |= _layer(f"enc.{arrangement.levels[0].label}_conv", conv)
    for side, stages in (("enc", arrangement.encoder), ("dec", arrangement.decoder)):
        for stage in stages:
            table |= _block(f"{side}.{stage.name}", stage)
    table |= _layer("out_conv", conv)
    return table | _fourier("logvar_fourier", "") | _layer("logvar_linear", linear, "")


def _array(name: str, inside: str = INSIDE) -> Table:
    return {f"{inside}{name}": Entry(name.replace(".", "/"), as_is)}


def _fourier(name: str, inside: str = INSIDE) -> Table:
    return _array(f"{name}.freqs", inside) | _array(f"{name}.phases", inside)


def _layer(name: str, transform, inside: str = INSIDE) -> Table:
    return {f"{inside}{name}.weight": Entry(f"{name.replace('.', '/')}/kernel", transform)}


def _block(name: str, stage: Stage) -> Table:
    convolutions = ["conv_res0", "conv_res1"]
    if stage.fan_in != stage.fan_out:
        convolutions.append("conv_skip")
    if stage.attends:
        convolutions += ["attn_qkv", "attn_proj"]
    table = _array(f"{name}.emb_gain") | _layer(f"{name}.emb_linear", linear)
    for one in convolutions:
        table |= _layer(f"{name}.{one}", conv)
    return table


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the EDM2 network in a file; None where there is none."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    first = next(filter(None, map(FIRST.fullmatch, shapes)), None)
    if first is None or f"{INSIDE}emb_fourier.freqs" not in shapes:
        return None
    image_size = int(first[1])
    sizes: list[int] = []
    while f"{INSIDE}enc.{_label(image_size >> len(sizes))}_block0.conv_res0.weight" in shapes:
        sizes.append(image_size >> len(sizes))
    blocks = {size: f"{INSIDE}enc.{_label(size)}_block0" for size in sizes}
    widths = [shapes[f"{block}.conv_res0.weight"][0] for block in blocks.values()]
    embedding, noise = shapes[f"{INSIDE}emb_noise.weight"]
    unit = math.gcd(*widths, embedding, noise)
    fields: dict[str, Any] = dict(
        image_size=image_size,
        channels=shapes[first[0]][1] - 1,
        num_classes=shapes.get(f"{INSIDE}emb_label.weight", (0, 0))[1],
        model_channels=unit,
        channel_mult=[width // unit for width in widths],
        channel_mult_noise=noise // unit,
        channel_mult_emb=embedding // unit,
        num_blocks=sum(
            re.fullmatch(rf"{re.escape(blocks[image_size][:-1])}\d+\.emb_gain", name) is not None
            for name in shapes
        ),
        attn_resolutions=[s for s, block in blocks.items() if f"{block}.attn_qkv.weight" in shapes],
        log_variance_features=shapes["logvar_linear.weight"][1],
    )
    # The bottleneck's first block always has attention.
    parts = ("", INSIDE[:-1], f"{INSIDE}dec.{_label(sizes[-1])}_in0")
    modules = weights.description.modules
    whole, network, block = (modules[p].attributes if p in modules else {} for p in parts)
    fields |= _renamed(whole, OF_WRAPPER) | _renamed(network, OF_NETWORK)
    fields |= _renamed(block, OF_BLOCK)
    if "num_heads" in block:
        fields["channels_per_head"] = widths[-1] // block["num_heads"]
    return fields | dict(latent=_on_latents(weights, fields["channels"]))


def _label(size: int) -> str:
    return f"{size}x{size}"


def _renamed(attributes: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: attributes[theirs] for ours, theirs in names.items() if theirs in attributes}


def _on_latents(weights: WeightSource, channels: int) -> bool:
    """Say whether a network denoises latents: by the encoder in its file, else by its channels."""
    encoder = weights.metadata.get("encoder")
    if isinstance(encoder, Mapping) and "class_name" in encoder:
        return "VAE" in encoder["class_name"]
    return channels == 4
