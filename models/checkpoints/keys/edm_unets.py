"""What the checkpoints of EDM's two UNets have in common (NVlabs/edm): blocks, wrappers, shapes.

The networks here keep the published names of their parts, so that a table is the blocks' list.
Query, key and value stay as published too, neighbours among the output channels of ``qkv``.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...unets.stages import Arrangement, Stage
from ..readers import WeightSource
from .layout import Entry, as_is, conv, linear

Table = dict[str, Entry | None]
# Classes of the published wrappers: the preconditioner here, and its numbers' names there.
WRAPPERS = {
    "EDMPrecond": ("edm", {"sigma_data": "sigma_data"}),
    "VPPrecond": (
        "vp",
        {"beta_d": "beta_d", "beta_min": "beta_min", "steps": "M", "epsilon_t": "epsilon_t"},
    ),
    "VEPrecond": ("ve", {"sigma_min": "sigma_min", "sigma_max": "sigma_max"}),
    "iDDPMPrecond": ("iddpm", {"steps": "M", "least_ratio": "C_1", "offset": "C_2"}),
}
INSIDE = "model."
# The table of noise levels that the improved DDPM wrapper holds.
LEVELS = "u"


def convolution(name: str) -> Table:
    """Return the entries of a convolution with weight and bias."""
    return _layer(name, conv, "kernel")


def dense(name: str, use_bias: bool = True) -> Table:
    """Return the entries of a linear layer."""
    return _layer(name, linear, "kernel", use_bias)


def norm(name: str) -> Table:
    """Return the entries of a group norm."""
    return _layer(name, as_is, "scale")


def constant(name: str) -> Table:
    """Return the entry of what the network here computes for itself."""
    return {f"{INSIDE}{name}": None}


def _layer(name, transform, weight, use_bias=True) -> Table:
    path = name.replace(".", "/")
    table: Table = {f"{INSIDE}{name}.weight": Entry(f"{path}/{weight}", transform)}
    if use_bias:
        table[f"{INSIDE}{name}.bias"] = Entry(f"{path}/bias", as_is)
    return table


def blocks(arrangement: Arrangement, *, project_resampled: bool) -> Table:
    """Return the entries of the first convolution and of every block."""
    table = convolution(f"enc.{arrangement.levels[0].label}_conv")
    for side, stages in (("enc", arrangement.encoder), ("dec", arrangement.decoder)):
        for stage in stages:
            table |= _block(f"{side}.{stage.name}", stage, project_resampled)
    return table


def _block(name: str, stage: Stage, project_resampled: bool) -> Table:
    table = norm(f"{name}.norm0") | convolution(f"{name}.conv0") | dense(f"{name}.affine")
    table |= norm(f"{name}.norm1") | convolution(f"{name}.conv1")
    if stage.fan_in != stage.fan_out or (stage.resample and project_resampled):
        table |= convolution(f"{name}.skip")
    if stage.resample:
        table |= constant(f"{name}.conv0.resample_filter")
        table |= constant(f"{name}.skip.resample_filter")
    if stage.attends:
        for part, entries in (("norm2", norm), ("qkv", convolution), ("proj", convolution)):
            table |= entries(f"{name}.{part}")
    return table


def wrapper(preconditioner: str | Mapping[str, Any]) -> Table:
    """Return the entries of what the published wrapper around a network holds itself."""
    name = preconditioner if isinstance(preconditioner, str) else preconditioner["name"]
    return {LEVELS: None} if name == "iddpm" else {}


def shapes(weights: WeightSource) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of the wrapped network's arrays by name; None where there is none."""
    found = {
        name.removeprefix(INSIDE): tuple(tensor.shape)
        for name, tensor in weights.tensors.items()
        if name.startswith(INSIDE)
    }
    return found if any(_labels(found)) and "map_layer0.weight" in found else None


def read_fields(weights: WeightSource, found: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the fields of the ``model`` section that both networks have.

    Args:
        weights: the file.
        found: its `shapes`.
    """
    labels = list(_labels(found))
    widths = [found[f"enc.{label}_block0.conv0.weight"][0] for label in labels]
    finest = labels[0]
    fields: dict[str, Any] = dict(
        image_size=int(finest.partition("x")[0]),
        channels=found[f"enc.{finest}_conv.weight"][1],
        num_classes=found.get("map_label.weight", (0, 0))[1],
        augment_dim=found.get("map_augment.weight", (0, 0))[1],
        widths=widths,
        num_blocks=sum(
            re.fullmatch(rf"enc\.{finest}_block\d+\.conv0\.weight", name) is not None
            for name in found
        ),
        attn_resolutions=[
            int(label.partition("x")[0])
            for label in labels
            if f"enc.{label}_block0.qkv.weight" in found
        ],
        preconditioner=_preconditioner(weights),
    )
    block = weights.description.modules.get(f"{INSIDE}enc.{finest}_block0")
    if block is not None and "dropout" in block.attributes:
        fields["dropout"] = block.attributes["dropout"]
    return fields


def _labels(found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    sizes = {
        int(match[1])
        for match in (re.match(r"enc\.(\d+)x\d+_block0\.conv0\.weight", name) for name in found)
        if match
    }
    return (f"{size}x{size}" for size in sorted(sizes, reverse=True))


def _preconditioner(weights: WeightSource) -> str | dict[str, Any]:
    description = weights.description
    if description.class_name not in WRAPPERS:
        return "iddpm" if LEVELS in weights.tensors else "edm"
    name, numbers = WRAPPERS[description.class_name]
    attributes = description.modules[""].attributes
    return {"name": name} | {
        ours: attributes[theirs] for ours, theirs in numbers.items() if theirs in attributes
    }
