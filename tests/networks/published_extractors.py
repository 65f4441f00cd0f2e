"""The networks of feature extractors under their published names, weights drawn by name."""

import numpy as np
from golden.make_extractors import (
    DEPTH,
    LEARNT,
    OUTPUT,
    PATCH,
    REGISTERS,
    SIDE,
    WIDTH,
    drawn,
)
from safetensors.numpy import save_file

from guidestar.models import builders
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys import inception
from guidestar.models.checkpoints.keys.dinov2 import RELEASE_5

# A published layout of an array of ours, by the number of its axes.
PUBLISHED_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


def inception_state(narrow=1):
    """Return the arrays of torch-fidelity's InceptionV3, by name."""
    spec = builders.build(dict(name="inception_v3", narrow=narrow))
    shapes = {name: leaf.shape for name, leaf in flatten(spec.shapes).items()}
    state = {}
    for name, entry in inception.keys().items():
        if entry is None:
            state[name] = np.zeros((), np.int64)
            continue
        shape = shapes[entry.path]
        state[name] = drawn(name, tuple(shape[axis] for axis in PUBLISHED_AXES[len(shape)]))
    return state


def dinov2_state(registers=0, grid=LEARNT):
    """Return the arrays of a DINOv2 in miniature under its authors' names."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "mask_token": (1, WIDTH),
        "pos_embed": (1, 1 + grid**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    for layer in range(DEPTH):
        names = {f"ls{n}.gamma": (WIDTH,) for n in (1, 2)}
        names |= {f"norm{n}.{part}": (WIDTH,) for n in (1, 2) for part in ("weight", "bias")}
        for name, (out, inside) in {
            "attn.qkv": (3 * WIDTH, WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "mlp.fc1": (4 * WIDTH, WIDTH),
            "mlp.fc2": (WIDTH, 4 * WIDTH),
        }.items():
            names |= {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in names.items()}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def transformers_state(registers=0, names=RELEASE_5):
    """Return the arrays of transformers' network; those of attention under given names."""
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, 1 + LEARNT**2, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, WIDTH)
    for layer in range(DEPTH):
        inside = {f"layer_scale{n}.lambda1": (WIDTH,) for n in (1, 2)}
        inside |= {f"norm{n}.{part}": (WIDTH,) for n in (1, 2) for part in ("weight", "bias")}
        linear = dict.fromkeys(RELEASE_5, (WIDTH, WIDTH))
        linear |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        for name, (out, fan_in) in linear.items():
            inside |= {f"{name}.weight": (out, fan_in), f"{name}.bias": (out,)}
        shapes |= {f"encoder.layer.{layer}.{name}": shape for name, shape in inside.items()}
    state = {name: drawn(name, shape) for name, shape in shapes.items()}
    for one, other in zip(RELEASE_5, names, strict=True):
        state = {name.replace(f".{one}.", f".{other}."): array for name, array in state.items()}
    return state


def timm_state(registers=0):
    """Return the arrays of timm's network, which has no position for class and registers."""
    state = dinov2_state(registers, grid=SIDE // PATCH)
    if registers:
        patches = drawn("pos_embed", (1, (SIDE // PATCH) ** 2, WIDTH))
        nowhere = np.zeros((1, 1, WIDTH), np.float32)
        state["pos_embed"] = np.concatenate([nowhere, patches], axis=1)
        state["register_tokens"] = drawn("reg_token", (1, REGISTERS, WIDTH))
    return state


def clip_state():
    """Return the arrays of CLIP's image tower in miniature under transformers' names."""
    inside = {f"layer_norm{n}.{part}": (WIDTH,) for n in (1, 2) for part in ("weight", "bias")}
    linear = {f"self_attn.{part}_proj": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")}
    linear |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for name, (out, fan_in) in linear.items():
        inside |= {f"{name}.weight": (out, fan_in), f"{name}.bias": (out,)}
    shapes = {
        "embeddings.class_embedding": (WIDTH,),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.position_embedding.weight": (1 + (SIDE // PATCH) ** 2, WIDTH),
    }
    for layer in range(DEPTH):
        shapes |= {f"encoder.layers.{layer}.{name}": shape for name, shape in inside.items()}
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.{part}": (WIDTH,) for part in ("weight", "bias")}
    shapes = {f"vision_model.{name}": shape for name, shape in shapes.items()}
    shapes["visual_projection.weight"] = (OUTPUT, WIDTH)
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def written(path, state):
    """Write arrays as safetensors, and return the path."""
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
    return path


def require_parity(found, expected):
    """Require agreement to 2e-5 of the output's largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
