"""Checkpoints of DhariwalUNet (NVlabs/edm): ADM inside one of EDM's wrappers."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...unets.dhariwal import dhariwal_arrangement
from ..readers import WeightSource
from .edm_unets import Table, blocks, convolution, dense, norm, read_fields, shapes, wrapper


def keys(
    image_size: int,
    num_classes: int = 0,
    augment_dim: int = 0,
    model_channels: int = 192,
    channel_mult: Sequence[int] = (1, 2, 3, 4),
    num_blocks: int = 3,
    attn_resolutions: Sequence[int] = (32, 16, 8),
    preconditioner: str | Mapping[str, Any] = "edm",
) -> Table:
    """Return the place of every published array in a `DhariwalUNet` of these fields."""
    arrangement = dhariwal_arrangement(
        image_size, model_channels, channel_mult, num_blocks, attn_resolutions
    )
    table = wrapper(preconditioner) | dense("map_layer0") | dense("map_layer1")
    if num_classes:
        table |= dense("map_label", use_bias=False)
    if augment_dim:
        table |= dense("map_augment", use_bias=False)
    table |= blocks(arrangement, project_resampled=False)
    return table | norm("out_norm") | convolution("out_conv")


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the DhariwalUNet in a file; None where there is none."""
    found = shapes(weights)
    if found is None or "out_conv.weight" not in found:
        return None
    fields = read_fields(weights, found)
    embedding, width = found["map_layer0.weight"]
    return fields | dict(
        model_channels=width,
        channel_mult=[one // width for one in fields.pop("widths")],
        channel_mult_emb=embedding // width,
        learn_variance=found["out_conv.weight"][0] == 2 * fields["channels"],
    )
