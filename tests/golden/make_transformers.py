"""Write pixart_tiny.npz and lightning_dit_tiny.npz: transformers of other libraries, tiny ones.

Run by hand where torch, diffusers and timm are installed (2.13, 0.42 and 1.0.31 made the files):

    python tests/golden/make_transformers.py

PixArt-alpha is diffusers' own network, its arrays under the names of the published checkpoints.
LightningDiT is put together from timm's rotary attention and gated MLP, torch's RMSNorm and
diffusers' time embedding. All weights are random and no layer is zero. Arrays are NCHW;
``state/NAME`` are the weights, and inputs and outputs go by the names of the cases.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.embeddings import (
    TimestepEmbedding,
    Timesteps,
    get_2d_sincos_pos_embed,
)
from timm.layers import RotaryEmbeddingCat, SwiGLUPacked
from timm.models.eva import EvaAttention
from torch import nn

HERE = Path(__file__).parent
WIDTH, HEADS, DEPTH, CHANNELS, TEXT = 24, 2, 2, 4, 16


def filled(module: nn.Module, seed: int) -> nn.Module:
    """Give a module weights in which nothing is zero."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        parameter.data = parameter.data * (parameter.ndim == 1) + scale * torch.randn_like(
            parameter
        )
    return module.eval()


# Published names of PixArt to those of diffusers; several of the latter are stacked in order.
PIXART = {
    "x_embedder.proj": ["pos_embed.proj"],
    "t_embedder.mlp.0": ["adaln_single.emb.timestep_embedder.linear_1"],
    "t_embedder.mlp.2": ["adaln_single.emb.timestep_embedder.linear_2"],
    "csize_embedder.mlp.0": ["adaln_single.emb.resolution_embedder.linear_1"],
    "csize_embedder.mlp.2": ["adaln_single.emb.resolution_embedder.linear_2"],
    "ar_embedder.mlp.0": ["adaln_single.emb.aspect_ratio_embedder.linear_1"],
    "ar_embedder.mlp.2": ["adaln_single.emb.aspect_ratio_embedder.linear_2"],
    "t_block.1": ["adaln_single.linear"],
    "y_embedder.y_proj.fc1": ["caption_projection.linear_1"],
    "y_embedder.y_proj.fc2": ["caption_projection.linear_2"],
    "final_layer.linear": ["proj_out"],
}
PIXART_BLOCK = {
    "attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "attn.proj": ["attn1.to_out.0"],
    "cross_attn.q_linear": ["attn2.to_q"],
    "cross_attn.kv_linear": ["attn2.to_k", "attn2.to_v"],
    "cross_attn.proj": ["attn2.to_out.0"],
    "mlp.fc1": ["ff.net.0.proj"],
    "mlp.fc2": ["ff.net.2"],
}


def pixart_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a diffusers network's arrays under the published names."""
    theirs, state = model.state_dict(), {}
    places = dict(PIXART)
    for layer in range(DEPTH):
        for name, parts in PIXART_BLOCK.items():
            places[f"blocks.{layer}.{name}"] = [f"transformer_blocks.{layer}.{p}" for p in parts]
        table = theirs[f"transformer_blocks.{layer}.scale_shift_table"]
        state[f"blocks.{layer}.scale_shift_table"] = table
    state["final_layer.scale_shift_table"] = theirs["scale_shift_table"]
    for name, parts in places.items():
        for kind in ("weight", "bias"):
            state[f"{name}.{kind}"] = torch.cat([theirs[f"{part}.{kind}"] for part in parts])
    state["pos_embed"] = model.pos_embed.pos_embed
    return state


def pixart() -> dict[str, np.ndarray]:
    config = dict(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=DEPTH,
        cross_attention_dim=WIDTH,
        sample_size=8,
        patch_size=2,
        caption_channels=TEXT,
    )
    full = filled(PixArtTransformer2DModel(**config, use_additional_conditions=True), 0)
    plain = PixArtTransformer2DModel(
        **config, use_additional_conditions=False, interpolation_scale=2
    )
    plain.load_state_dict(full.state_dict(), strict=False)
    plain.eval()
    torch.manual_seed(1)
    inputs = dict(
        x=torch.randn(3, CHANNELS, 8, 8),
        wide=torch.randn(3, CHANNELS, 4, 12),
        t=torch.tensor([0.0, 333.0, 999.0]),
        tokens=torch.randn(3, 7, TEXT),
        mask=torch.tensor([[1] * 7, [1] * 3 + [0] * 4, [1] + [0] * 6]),
        size=torch.tensor([[1024.0, 1024.0], [512.0, 1536.0], [64.0, 64.0]]),
        aspect_ratio=torch.tensor([[1.0], [1 / 3], [1.0]]),
    )
    state = pixart_state(full)
    state["y_embedder.y_embedding"] = torch.randn(7, TEXT) / 4

    def run(model, x, micro):
        told = dict(resolution=inputs["size"], aspect_ratio=inputs["aspect_ratio"]) if micro else {}
        return model(
            inputs[x],
            encoder_hidden_states=inputs["tokens"],
            timestep=inputs["t"],
            encoder_attention_mask=inputs["mask"],
            added_cond_kwargs=told or dict(resolution=None, aspect_ratio=None),
        ).sample

    outputs = dict(
        output_micro=run(full, "x", True),
        output_micro_wide=run(full, "wide", True),
        output_scale_2=run(plain, "x", False),
        pos_embed_scale_2=plain.pos_embed.pos_embed,
    )
    return inputs | outputs | {f"state/{name}": array for name, array in state.items()}


class LightningBlock(nn.Module):
    """adaLN-Zero around timm's rotary attention and gated MLP."""

    def __init__(self, qk_norm: bool):
        super().__init__()
        norm = partial(nn.RMSNorm, eps=1e-6)
        self.norm1, self.norm2 = norm(WIDTH), norm(WIDTH)
        self.attn = EvaAttention(
            WIDTH,
            HEADS,
            qkv_bias_separate=True,
            num_prefix_tokens=0,
            norm_layer=norm,
            qk_norm=qk_norm,
            scale_norm=False,
        )
        self.mlp = SwiGLUPacked(WIDTH, 2 * int(2 / 3 * 4 * WIDTH))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x, c, rope):
        a, b, g, s, t, h = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + g * self.attn(self.norm1(x) * (1 + b) + a, rope=rope)
        return x + h * self.mlp(self.norm2(x) * (1 + t) + s)


class Lightning(nn.Module):
    def __init__(self, qk_norm: bool, grid: int = 4, classes: int = 5):
        super().__init__()
        self.x_embedder = nn.Conv2d(CHANNELS, WIDTH, 1)
        self.time = TimestepEmbedding(256, WIDTH)
        self.features = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.labels = nn.Embedding(classes + 1, WIDTH)
        self.blocks = nn.ModuleList(LightningBlock(qk_norm) for _ in range(DEPTH))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        self.linear = nn.Linear(WIDTH, CHANNELS)
        self.rope = RotaryEmbeddingCat(WIDTH // HEADS, in_pixels=False, feat_shape=[grid, grid])

    def forward(self, x, t, y, positions):
        c = self.time(self.features(t)) + self.labels(y)
        h = self.x_embedder(x).flatten(2).transpose(1, 2) + positions
        for block in self.blocks:
            h = block(h, c, self.rope.get_embed())
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        h = self.linear(self.norm(h) * (1 + scale) + shift)
        return h.transpose(1, 2).reshape(x.shape)


LIGHTNING = {
    "x_embedder.proj": "x_embedder",
    "t_embedder.mlp.0": "time.linear_1",
    "t_embedder.mlp.2": "time.linear_2",
    "y_embedder.embedding_table": "labels",
    "final_layer.norm_final": "norm",
    "final_layer.adaLN_modulation": "modulation",
    "final_layer.linear": "linear",
    "mlp.w12": "mlp.fc1",
    "mlp.w3": "mlp.fc2",
}


def lightning_state(model: nn.Module, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the arrays under the published names."""
    state = {"pos_embed": positions[None]}
    for name, array in model.state_dict().items():
        for published, own in LIGHTNING.items():
            if name.startswith(f"{own}.") or f".{own}." in name:
                name = name.replace(own, published, 1)
                break
        state[name] = array
    for layer in range(DEPTH):
        attention = f"blocks.{layer}.attn"
        query, value = (state.pop(f"{attention}.{part}_bias") for part in "qv")
        key = model.blocks[layer].attn.k_bias
        state[f"{attention}.qkv.bias"] = torch.cat([query, key, value])
    # The published network keeps the angles of its rotary positions as buffers.
    sine, cosine = model.rope.get_embed().chunk(2, dim=-1)
    return state | {"feat_rope.freqs_cos": cosine, "feat_rope.freqs_sin": sine}


def lightning() -> dict[str, np.ndarray]:
    normed, plain = filled(Lightning(qk_norm=True), 2), Lightning(qk_norm=False)
    plain.load_state_dict(normed.state_dict(), strict=False)
    torch.manual_seed(3)
    positions = torch.from_numpy(positions_of(WIDTH, 4))
    inputs = dict(
        x=torch.randn(3, CHANNELS, 4, 4),
        t=torch.tensor([0.0, 0.4, 1.0]),
        labels=torch.tensor([0, 3, 5]),
    )
    outputs = {
        f"output{kind}": model(inputs["x"], inputs["t"], inputs["labels"], positions)
        for kind, model in (("", plain), ("_qk_norm", normed))
    }
    state = lightning_state(normed, positions)
    return inputs | outputs | {f"state/{name}": array for name, array in state.items()}


def positions_of(width: int, grid: int) -> np.ndarray:
    """Fixed sine-cosine positions, by diffusers."""
    table = get_2d_sincos_pos_embed(width, grid, base_size=grid, output_type="pt")
    return table.float().numpy()


def write(name: str, arrays: dict, config: dict) -> None:
    plain = {key: np.asarray(value.detach()) for key, value in arrays.items()}
    np.savez_compressed(HERE / name, config=json.dumps(config), **plain)
    print(name, sum(a.size for a in plain.values()), (HERE / name).stat().st_size)


if __name__ == "__main__":
    common = dict(width=WIDTH, depth=DEPTH, heads=HEADS, channels=CHANNELS)
    with torch.no_grad():
        write(
            "pixart_tiny.npz",
            pixart(),
            common | dict(image_size=8, patch_size=2, tokens=7, text_width=TEXT),
        )
        write(
            "lightning_dit_tiny.npz",
            lightning(),
            common | dict(image_size=4, patch_size=1, num_classes=5),
        )
