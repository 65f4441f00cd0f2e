"""Checkpoints of SongUNet (NVlabs/edm): DDPM++ and NCSN++ inside one of EDM's wrappers."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...unets.song import song_arrangement
from ...unets.stages import DOWN
from ..readers import WeightSource
from .edm_unets import (
    INSIDE,
    Table,
    blocks,
    constant,
    convolution,
    dense,
    norm,
    read_fields,
    shapes,
    wrapper,
)
from .layout import Entry, as_is


def keys(
    image_size: int,
    num_classes: int = 0,
    augment_dim: int = 0,
    model_channels: int = 128,
    channel_mult: Sequence[int] = (1, 2, 2, 2),
    num_blocks: int = 4,
    attn_resolutions: Sequence[int] = (16,),
    embedding_type: str = "positional",
    encoder_type: str = "standard",
    decoder_type: str = "standard",
    preconditioner: str | Mapping[str, Any] = "edm",
) -> Table:
    """Return the place of every published array in a `SongUNet` of these fields."""
    arrangement = song_arrangement(
        image_size, model_channels, channel_mult, num_blocks, attn_resolutions
    )
    table = wrapper(preconditioner) | dense("map_layer0") | dense("map_layer1")
    if embedding_type == "fourier":
        table[f"{INSIDE}map_noise.freqs"] = Entry("map_noise/freqs", as_is)
    if num_classes:
        table |= dense("map_label")
    if augment_dim:
        table |= dense("map_augment", use_bias=False)
    table |= blocks(arrangement, project_resampled=True)
    for number, level in enumerate(arrangement.levels):
        name = f"enc.{level.label}_aux"
        if level.encoder[0].resample == DOWN and encoder_type == "residual":
            table |= convolution(f"{name}_residual")
            table |= constant(f"{name}_residual.resample_filter")
        if level.encoder[0].resample == DOWN and encoder_type == "skip":
            table |= convolution(f"{name}_skip") | constant(f"{name}_down.resample_filter")
        name = f"dec.{level.label}_aux"
        if number == 0 or decoder_type == "skip":
            table |= norm(f"{name}_norm") | convolution(f"{name}_conv")
        if decoder_type == "skip" and level is not arrangement.levels[-1]:
            table |= constant(f"{name}_up.resample_filter")
    return table


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the SongUNet in a file; None where there is none."""
    found = shapes(weights)
    outputs = [name for name in found or () if name.endswith("_aux_conv.weight")]
    if found is None or not outputs:
        return None
    fields = read_fields(weights, found)
    width = found[f"enc.{fields['image_size']}x{fields['image_size']}_conv.weight"][0]
    embedding, noise = found["map_layer0.weight"]
    encoders = {
        "residual": any(name.endswith("_aux_residual.weight") for name in found),
        "skip": any(name.endswith("_aux_skip.weight") for name in found),
    }
    fields |= dict(
        model_channels=width,
        channel_mult=[one // width for one in fields.pop("widths")],
        channel_mult_emb=embedding // width,
        channel_mult_noise=noise // width,
        embedding_type="fourier" if "map_noise.freqs" in found else "positional",
        encoder_type=next((name for name, there in encoders.items() if there), "standard"),
        decoder_type="skip" if len(outputs) > 1 else "standard",
        learn_variance=found[outputs[0]][0] == 2 * fields["channels"],
    )
    filters = [name for name in found if name.endswith(".resample_filter")]
    if filters:
        taps = weights.tensors[f"{INSIDE}{filters[0]}"].read()[0, 0].sum(axis=0)
        fields["resample_filter"] = [float(tap / taps[0]) for tap in taps]
    return fields
