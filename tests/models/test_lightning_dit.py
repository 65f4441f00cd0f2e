"""LightningDiT: published count, parity with parts of other libraries, rotary positions."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables.transformer_examples import golden, last, published, require_parity

from guidestar.core.errors import UserError
from guidestar.core.macs import macs
from guidestar.models import LightningDiT, builders
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys import lightning_dit
from guidestar.models.checkpoints.loading import load
from guidestar.models.checkpoints.stacking import places
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.preconditioning import Flow
from guidestar.models.transformers.lightning_dit import rotate, rotations

FILE = "lightning_dit_tiny.npz"
HEADS = 2  # no array tells it, and the width is of no published size
NORMS = ("q_norm", "k_norm")


def state_of(qk_norm):
    _, state, _ = golden(FILE)
    return {n: a for n, a in state.items() if qk_norm or not any(norm in n for norm in NORMS)}


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_output_is_that_of_other_libraries_parts(scan_layers, qk_norm, tmp_path):
    arrays, _, config = golden(FILE)
    path = published(state_of(qk_norm), tmp_path / "tiny.safetensors")
    loaded = load(path, heads=HEADS, scan_layers=scan_layers)
    section = loaded.sidecar["model"]
    assert {name: section[name] for name in config} == config
    assert (section["name"], section["mlp_ratio"], section["qk_norm"]) == (
        "lightning_dit",
        4.0,
        qk_norm,
    )
    assert loaded.spec.preconditioner == Flow() and loaded.spec.latent
    raw = jax.jit(lambda denoise, *given: denoise.raw(*given))
    found = raw(loaded.denoiser, last(arrays["x"]), arrays["t"], jnp.asarray(arrays["labels"]))
    require_parity(found, arrays["output_qk_norm" if qk_norm else "output"])


def test_xl_1_has_the_published_parameters_and_its_multiply_adds():
    spec = builders.build(dict(name="lightning_dit", size="XL/1", scan_layers=True))
    network, params = spec.network, spec.shapes
    assert spec.shape == (16, 16, 32)
    tokens, width, depth, hidden = 256, 1152, 28, 3072
    count = sum(math.prod(p.shape) for p in jax.tree.leaves(params))
    assert count + tokens * width == 675_256_736
    assert params["blocks"]["mlp_in"]["kernel"].shape == (depth, width, 2 * hidden)
    block = tokens * (4 * width**2 + 3 * width * hidden) + 2 * tokens**2 * width + 6 * width**2
    rest = 2 * tokens * width * 32 + 2 * width**2 + 256 * width + width**2
    assert macs(Denoiser(params, network, spec.preconditioner)) == depth * block + rest


def test_every_published_array_of_xl_1_has_its_place():
    build = partial(LightningDiT.from_name, "XL/1", scan_layers=True)
    abstract = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    _, params = split(abstract, num_classes=1000, shape=(16, 16, 32))
    wanted = {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
    table = lightning_dit.keys(depth=28)
    loaded = [entry.path for entry in table.values() if entry is not None]
    assert len(loaded) == len(set(loaded)) == 12 + 28 * 12
    assert [name for name, entry in table.items() if entry is None] == [
        "pos_embed",
        "feat_rope.freqs_cos",
        "feat_rope.freqs_sin",
    ]
    assert None not in places(wanted, loaded).values()


def test_rotary_positions_tell_differences_of_rows_and_columns_alone():
    grid, features = (5, 7), 12
    query, key = (jax.random.normal(jax.random.key(k), (1, 1, 1, features)) for k in (0, 1))
    everywhere = [jnp.broadcast_to(one, (1, 35, 1, features)) for one in (query, key)]
    turned = [np.asarray(rotate(one, grid)).reshape(*grid, features) for one in everywhere]
    products = np.einsum("abf,cdf->abcd", *turned)
    for down, across in ((0, 0), (1, 0), (0, 3), (2, 4)):
        same = [products[r, c, r + down, c + across] for r in range(3) for c in range(3)]
        np.testing.assert_allclose(same, same[0], rtol=1e-4, atol=1e-5)
    # A row is not a column.
    assert abs(products[0, 0, 2, 0] - products[0, 0, 0, 2]) > 1e-2
    np.testing.assert_allclose(products[0, 0, 0, 0], float(jnp.sum(query * key)), rtol=1e-5)
    cosine, sine = rotations(features, *grid)
    np.testing.assert_allclose(cosine**2 + sine**2, 1, rtol=1e-6)


def test_angles_are_those_that_published_files_store():
    _, state, _ = golden(FILE)
    cosine, sine = rotations(12, 4, 4)
    np.testing.assert_allclose(np.repeat(cosine, 2, 1), state["feat_rope.freqs_cos"], atol=1e-6)
    np.testing.assert_allclose(np.repeat(sine, 2, 1), state["feat_rope.freqs_sin"], atol=1e-6)


@pytest.mark.parametrize("name", ["pos_embed", "feat_rope.freqs_cos", "feat_rope.freqs_sin"])
def test_other_positions_are_refused_and_missing_angles_are_not(name, tmp_path):
    state = state_of(qk_norm=False)
    moved = state | {name: state[name] + np.float32(0.01)}
    with pytest.raises(UserError, match=f"{name} (is not the fixed|has other angles)"):
        load(published(moved, tmp_path / "moved.safetensors"), heads=HEADS)
    if name != "pos_embed":
        del state[name]
        assert load(published(state, tmp_path / "without.safetensors"), heads=HEADS)


def test_the_gated_mlp_has_two_thirds_of_the_width_rounded_down():
    fields = dict(image_size=4, channels=2, patch_size=1, depth=1, num_classes=0)
    network = nnx.eval_shape(lambda: LightningDiT(width=20, heads=5, **fields, rngs=nnx.Rngs(0)))
    assert network.blocks[0].mlp_out.kernel.shape == (53, 20)
    assert "condition_embedding" not in network.sites


def test_heads_whose_features_cannot_be_turned_are_refused():
    with pytest.raises(ValueError, match="divisible by 4 times the heads"):
        builders.build(dict(name="lightning_dit", size="XL/1", depth=1, heads=64))
