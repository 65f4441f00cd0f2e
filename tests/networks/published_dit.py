"""A small DiT's arrays under the published names."""

import numpy as np

from guidestar.models.layers.tokens import sincos_positions


def published_dit(classes=3, null=True, width=16, depth=1, grid=4, outputs=8, seed=0):
    """Return arrays for latents of 8x8x4 in patches of 2, by name."""
    random = np.random.default_rng(seed)

    def drawn(*shape):
        return (0.05 * random.normal(size=shape)).astype(np.float32)

    found = {
        "pos_embed": sincos_positions(width, grid, grid)[None].astype(np.float32),
        "x_embedder.proj.weight": drawn(width, 4, 2, 2),
        "x_embedder.proj.bias": drawn(width),
        "y_embedder.embedding_table.weight": drawn(classes + null, width),
    }
    layers = {"t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width)}
    for block in range(depth):
        layers |= {
            f"blocks.{block}.attn.qkv": (3 * width, width),
            f"blocks.{block}.attn.proj": (width, width),
            f"blocks.{block}.mlp.fc1": (4 * width, width),
            f"blocks.{block}.mlp.fc2": (width, 4 * width),
            f"blocks.{block}.adaLN_modulation.1": (6 * width, width),
        }
    layers["final_layer.linear"] = (4 * outputs, width)
    layers["final_layer.adaLN_modulation.1"] = (2 * width, width)
    for name, (out, inside) in layers.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = drawn(out, inside), drawn(out)
    return found
