"""CLIP's image tower: parity with transformers, with or without the text's, and its cost."""

import jax
import numpy as np
import places
import pytest
from golden.make_extractors import HEADS, OUTPUT, PATCH, SIDE, pixels
from networks.published_extractors import clip_state, require_parity, written

from guidestar.core.errors import UserError
from guidestar.core.macs import count
from guidestar.models import builders
from guidestar.models.checkpoints.loading import fit, load


@pytest.mark.longer
@pytest.mark.parametrize("scan_layers", [False, True])
def test_features_are_those_of_transformers(scan_layers, tmp_path):
    path = written(tmp_path / "x.safetensors", clip_state())
    loaded = load(path, heads=HEADS, scan_layers=scan_layers)
    assert loaded.spec.shape == (SIDE, SIDE, 3) and loaded.spec.kind == "encoder"
    run = jax.jit(lambda params, x: loaded.network.module(params).features(x))
    expected = np.load(places.GOLDEN / "extractors.npz")["clip"]
    require_parity(run(loaded.params, pixels(2, SIDE, SIDE, 3)), expected)


def test_the_text_s_tower_is_left_behind(tmp_path):
    text = {
        "text_model.embeddings.token_embedding.weight": np.ones((3, 2), np.float32),
        "text_projection.weight": np.ones((2, 2), np.float32),
        "logit_scale": np.ones((), np.float32),
    }
    ids = {"vision_model.embeddings.position_ids": np.arange(17)[None]}
    found = fit(written(tmp_path / "x.safetensors", clip_state() | text | ids), heads=HEADS)
    assert (
        found.sidecar["model"]["name"] == "clip_image" and found.shapes["projection"][1] == OUTPUT
    )
    assert "without text_model.*" in found.sidecar["format"]


def test_a_missing_array_is_named(tmp_path):
    state = clip_state()
    state.pop("vision_model.encoder.layers.1.self_attn.k_proj.bias")
    with pytest.raises(UserError, match="layers.1.self_attn.qkv.bias is missing"):
        fit(written(tmp_path / "x.safetensors", state), heads=HEADS)


def test_its_cost_is_that_published():
    """4.4 G multiply-adds are published of ViT-B/32 at 224 pixels."""
    spec = builders.build(dict(name="clip_image", size="B/32", scan_layers=True))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    found = count(lambda params, x: spec.network.module(params)(x), spec.shapes, x)
    layer = 12 * 768**2 * 50 + 2 * 768 * 50**2
    assert found == 12 * layer + 49 * 3 * 32**2 * 768 + 768 * 512
    assert found / 1e9 == pytest.approx(4.4, abs=0.05)


def test_images_of_another_size_are_refused():
    spec = builders.build(
        dict(name="clip_image", patch_size=PATCH, width=24, depth=1, heads=2, output=8)
    )
    with pytest.raises(ValueError, match="takes 224x224x3 images"):
        jax.eval_shape(
            lambda params, x: spec.network.module(params)(x), spec.shapes, np.zeros((1, 56, 56, 3))
        )
