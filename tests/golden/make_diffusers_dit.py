"""Writes diffusers_dit/: a small DiT as diffusers saves it, and what it computes.

    pip install torch==2.13.0 diffusers==0.42.1 safetensors numpy
    python make_diffusers_dit.py

Blocks share their embeddings, as in the published weights, which are the authors' converted; so the
frequencies of time are spaced as the authors' are (over 128 and not 127 intervals).
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DiTTransformer2DModel

FOLDER = Path(__file__).with_name("diffusers_dit")


def main() -> None:
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_eps=1e-6,
    ).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            spread = 0.3 if parameter.ndim == 1 else 1.5 * parameter[0].numel() ** -0.5
            # Numbers that half precision holds.
            parameter.copy_((spread * torch.randn_like(parameter)).half().float())
        first = net.transformer_blocks[0].norm1.emb
        for block in net.transformer_blocks:
            block.norm1.emb.load_state_dict(first.state_dict())
            block.norm1.emb.time_proj.downscale_freq_shift = 0
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([0, 37, 999])
    labels = torch.tensor([0, 9, 10])
    with torch.no_grad():
        output = net(x, timestep=t, class_labels=labels).sample
    net.half().save_pretrained(FOLDER)
    arrays = dict(x=x, t=t, labels=labels, output=output)
    np.savez(FOLDER / "output.npz", **{name: value.numpy() for name, value in arrays.items()})


if __name__ == "__main__":
    main()
