"""Tiny networks of EDM: of random weights, and those of the golden files."""

import math
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from places import GOLDEN
from safetensors.numpy import save_file

from guidestar.models import builders
from guidestar.models.checkpoints import Loaded, load
from guidestar.models.denoiser import Denoiser, Network
from guidestar.models.spec import Spec

STATE = "state/"
CLASSES = 3
# Attention at the coarser of two resolutions.
DDPMPP = dict(
    name="song_unet",
    image_size=8,
    channels=2,
    num_classes=CLASSES,
    augment_dim=9,
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
)
NCSNPP = DDPMPP | dict(
    embedding_type="fourier",
    channel_mult_noise=2,
    encoder_type="residual",
    resample_filter=(1, 3, 3, 1),
)
ADM = DDPMPP | dict(
    name="dhariwal_unet", model_channels=64, channel_mult=(1, 1), channel_mult_emb=1
)
NETWORKS = {"DDPM++": DDPMPP, "NCSN++": NCSNPP, "ADM": ADM}


@cache
def _shapes(model: tuple) -> tuple[Spec, Network, dict]:
    model = dict(model)
    spec = builders.build(model)
    return spec, spec.network, spec.shapes


def shapes_of(model: dict) -> tuple[Spec, Network, dict]:
    """Return spec, network and parameters' shapes of a model section."""
    return _shapes(tuple(model.items()))


def count(params) -> int:
    """Count numbers in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def denoiser(model: dict, seed: int = 0) -> Denoiser:
    """Return the network of a model section with parameters of which none is zero."""
    spec, _, shapes = shapes_of(model)
    random = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key == "scale":
            return (1 + 0.2 * random.normal(size=leaf.shape)).astype("f")
        fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 10
        return (random.normal(size=leaf.shape) / fan_in**0.5).astype("f")

    params = jax.tree_util.tree_map_with_path(fill, shapes)
    return spec.denoiser(params)


def inputs(count: int = 3, rows: int = 8, columns: int = 8):
    """Return images, time inputs and labels."""
    random = np.random.default_rng(5)
    x = random.normal(size=(count, rows, columns, 2)).astype("f")
    arrays = x, np.linspace(-1.5, 1.2, count, dtype="f"), np.arange(count) % CLASSES
    return tuple(map(jnp.asarray, arrays))


@partial(jax.jit, static_argnums=0)
def run(network, params, *arguments, **options):
    """Run a network as one program; its own output, in its own coordinates."""
    return network(params, *arguments, **options)


def golden(name: str, directory: Path, **overrides) -> tuple[Loaded, dict]:
    """Read a golden file: its network, by way of a checkpoint, and its arrays, NHWC.

    Args:
        name: of the file; those of VP and VE hold what differs from EDM's alone.
        directory: where the checkpoint is written.
        overrides: fields of the model section.
    """
    arrays = dict(np.load(GOLDEN / f"{name}_tiny.npz"))
    if not name.startswith("edm"):
        common = np.load(GOLDEN / f"edm_{name.partition('_')[2]}_tiny.npz")
        arrays = {k: common[k] for k in common.files if k != f"{STATE}model.map_augment.weight"} | (
            arrays
        )
    path = directory / f"{name}.safetensors"
    state = {k.removeprefix(STATE): v for k, v in arrays.items() if k.startswith(STATE)}
    save_file(state, path)
    images = {k: arrays[k].transpose(0, 2, 3, 1) for k in ("x", "denoised")}
    return load(path, **overrides), arrays | images
