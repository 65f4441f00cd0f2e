"""DINOv2: parity with transformers and timm, positions as the authors resize them, its cost."""

import jax
import jax.numpy as jnp
import numpy as np
import places
import pytest
from golden.make_extractors import HEADS, LEARNT, PATCH, REGISTERS, SIDE, pixels
from networks.published_extractors import (
    dinov2_state,
    require_parity,
    timm_state,
    transformers_state,
    written,
)

from guidestar.core.errors import UserError
from guidestar.core.macs import count
from guidestar.core.resampling import cubic
from guidestar.models import builders
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys.dinov2 import ATTENTION
from guidestar.models.checkpoints.loading import fit, load
from guidestar.models.denoiser import parameter_count

PLAIN = dict(offset=0.0, heads=HEADS)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(places.GOLDEN / "extractors.npz"))


def features(loaded, side=SIDE):
    run = jax.jit(lambda params, x: loaded.network.module(params).features(x))
    return run(loaded.params, jnp.asarray(pixels(2, side, side, 3)))


# Name of the golden array -> the file's arrays, and fields that the library has of its own.
LIBRARIES = {
    "plain": (transformers_state(names=ATTENTION), PLAIN),
    "registers": (transformers_state(REGISTERS), dict(heads=HEADS)),
    "timm_0": (timm_state(), dict(heads=HEADS)),
    f"timm_{REGISTERS}": (timm_state(REGISTERS), dict(heads=HEADS)),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_features_are_those_of_other_libraries(golden, name, tmp_path):
    state, fields = LIBRARIES[name]
    loaded = load(written(tmp_path / "x.safetensors", state), **fields)
    require_parity(features(loaded), golden[f"dinov2/{name}"])


def test_positions_of_the_learnt_grid_are_taken_as_they_are(golden, tmp_path):
    path = written(tmp_path / "x.safetensors", transformers_state())
    found = features(load(path, heads=HEADS), LEARNT * PATCH)
    require_parity(found, golden["dinov2/plain_learnt"])


@pytest.mark.longer
def test_scanned_layers_are_the_same(tmp_path):
    path = written(tmp_path / "x.safetensors", dinov2_state(REGISTERS))
    plain, scanned = (features(load(path, heads=HEADS, scan_layers=scan)) for scan in (False, True))
    np.testing.assert_allclose(scanned, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("registers", "options"), [(0, dict(offset=0.1)), (REGISTERS, dict(antialias=True))]
)
def test_published_networks_resize_positions_as_their_authors_do(registers, options, tmp_path):
    state = dinov2_state(registers)
    loaded = load(written(tmp_path / "x.safetensors", state), heads=HEADS)
    module = loaded.network.module(loaded.params)
    matrix = cubic(LEARNT, SIDE // PATCH, **options)
    learnt = state["pos_embed"][0, 1:].reshape(LEARNT, LEARNT, -1)
    expected = np.einsum("ip,jq,pqw->ijw", matrix, matrix, learnt).reshape(-1, learnt.shape[-1])
    found = module.resized_positions((SIDE // PATCH,) * 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "registers", "parameters"),
    [
        ("B", 0, 86_580_480),
        ("B", 4, 86_583_552),
        ("L", 0, 304_368_640),
        ("L", 4, 304_372_736),
    ],
)
def test_sizes_and_costs_are_those_published(size, registers, parameters):
    fields = dict(name="dinov2", size=size, registers=registers, scan_layers=True)
    spec = builders.build(fields)
    depth, width = {"B": (12, 768), "L": (24, 1024)}[size]
    # The token of masked patches is in the published number, and not in the network.
    assert parameter_count(spec.shapes) + width == parameters
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    found = count(lambda params, x: spec.network.module(params)(x), spec.shapes, x)
    tokens = 257 + registers
    layer = 12 * width**2 * tokens + 2 * width * tokens**2
    positions = width * (16 * 37 * 37 + 16 * 16 * 37)
    assert found == depth * layer + 256 * 588 * width + positions


def test_a_large_one_costs_what_is_published():
    """81.1 G multiply-adds are published of ViT-L of 257 tokens at 224 pixels."""
    spec = builders.build(dict(name="dinov2", size="L", scan_layers=True))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    found = count(lambda params, x: spec.network.module(params)(x), spec.shapes, x)
    assert found / 1e9 == pytest.approx(81.1, abs=0.1)


@pytest.mark.longer
def test_published_sizes_know_their_heads(tmp_path):
    shapes = flatten(builders.build(dict(name="dinov2", size="S")).shapes)
    assert shapes["positions"].shape == (1370, 384)
    for size, heads in (("S", 6), ("B", 12), ("L", 16)):
        spec = builders.build(dict(name="dinov2", size=size, depth=1))
        assert spec.module.blocks[0].attention.heads == heads


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("blocks.1.ls2.gamma", "blocks.1.ls2.gamma is missing"),
        ("norm.bias", "norm.bias is missing"),
    ],
)
def test_what_is_missing_is_named(gone, message, tmp_path):
    state = {name: array for name, array in dinov2_state().items() if name != gone}
    with pytest.raises(UserError, match=message):
        fit(written(tmp_path / "x.safetensors", state), heads=HEADS)


def test_a_width_of_no_published_size_asks_for_its_heads(tmp_path):
    with pytest.raises(UserError, match="needs the field 'heads'"):
        fit(written(tmp_path / "x.safetensors", dinov2_state()))


def test_an_unknown_size_is_refused():
    with pytest.raises(UserError, match="size 'H' is not one of S, B, L"):
        builders.build(dict(name="dinov2", size="H"))
