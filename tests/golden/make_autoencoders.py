"""Writes autoencoders.npz: what diffusers' AutoencoderKL computes, at a small size.

    pip install torch diffusers==0.42.1 numpy
    python make_autoencoders.py

Weights are not stored: both sides draw them by name, see `drawn`. `original_names` pairs names of
the original code with those of diffusers, as diffusers' own converter does.
"""

import json
import zlib
from pathlib import Path

import numpy as np

CONFIG = dict(block_out_channels=(32, 64, 64), layers_per_block=1, latent_channels=4)


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array's values by its name: of unit gain, and scales around 1."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (0.1 * values + ("norm" in name and name.endswith("weight"))).astype(np.float32)


def original_names(diffusers_names: list[str]) -> dict[str, str]:
    """Return the original code's name for each of diffusers', checked against its converter."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    last = len(CONFIG["block_out_channels"]) - 1
    pairs = {
        "conv_norm_out": "norm_out",
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
        "mid_block.attentions.0.to_q": "mid.attn_1.q",
        "mid_block.attentions.0.to_k": "mid.attn_1.k",
        "mid_block.attentions.0.to_v": "mid.attn_1.v",
        "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
        "conv_shortcut": "nin_shortcut",
        "downsamplers.0": "downsample",
        "upsamplers.0": "upsample",
        ".resnets.": ".block.",
    }
    pairs |= {f"down_blocks.{i}": f"down.{i}" for i in range(last + 1)}
    pairs |= {f"up_blocks.{i}": f"up.{last - i}" for i in range(last + 1)}
    names = {}
    for name in diffusers_names:
        old = name
        for theirs, original in pairs.items():
            old = old.replace(theirs, original)
        names[old] = name
    import torch

    order = list(names)
    marked = {f"first_stage_model.{old}": torch.full((1,) * 4, i) for i, old in enumerate(order)}
    config = {"down_block_types": [None] * (last + 1), "up_block_types": [None] * (last + 1)}
    converted = convert_ldm_vae_checkpoint(marked, config)
    found = {order[int(mark.flatten()[0])]: name for name, mark in converted.items()}
    assert found == names
    return names


def main() -> None:
    import torch
    from diffusers import AutoencoderKL

    blocks = len(CONFIG["block_out_channels"])
    vae = AutoencoderKL(
        **CONFIG,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
    ).eval()
    state = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
    vae.load_state_dict({name: torch.from_numpy(drawn(name, s)) for name, s in state.items()})
    x = np.random.RandomState(1).uniform(-1, 1, (2, 3, 16, 24)).astype(np.float32)
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(x)).latent_dist
        decoded = vae.decode(posterior.mean).sample
    np.savez_compressed(
        Path(__file__).with_name("autoencoders.npz"),
        config=json.dumps(CONFIG),
        shapes=json.dumps(state),
        original_names=json.dumps(original_names(list(state))),
        x=x,
        mean=posterior.mean.numpy(),
        log_variance=posterior.logvar.numpy(),
        decoded=decoded.numpy(),
    )


if __name__ == "__main__":
    main()
