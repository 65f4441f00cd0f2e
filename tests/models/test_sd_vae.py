"""The autoencoder of Stable Diffusion: published sizes, names and numbers."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import places
import pytest
from flax import nnx
from golden.make_autoencoders import drawn
from safetensors.numpy import save_file
from tables.everyday import few

from guidestar.models import SDVAE, builders
from guidestar.models.autoencoders.posterior import draw, from_moments, kl_to_unit
from guidestar.models.checkpoints import load

GOLDEN = np.load(places.GOLDEN / "autoencoders.npz")
SHAPES = json.loads(str(GOLDEN["shapes"]))
ORIGINAL = json.loads(str(GOLDEN["original_names"]))
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def published(form):
    """Return the golden weights under one of the sets of names in use."""
    arrays = {name: drawn(name, tuple(shape)) for name, shape in SHAPES.items()}
    if form == "original":
        arrays = {old: arrays[name] for old, name in ORIGINAL.items()}
        for name, value in arrays.items():
            if "attn_1" in name and value.ndim == 2:
                arrays[name] = value[..., None, None]
    if form == "old":
        for new, old in OLD.items():
            arrays = {name.replace(new, old): value for name, value in arrays.items()}
    return arrays


def loaded(folder, arrays, **overrides):
    save_file(
        {name: np.ascontiguousarray(a) for name, a in arrays.items()}, folder / "vae.safetensors"
    )
    return load(folder / "vae.safetensors", name="sd_vae", **overrides)


@jax.jit
def run(module, x):
    mean, log_variance = module.encode(x)
    return mean, log_variance, module.decode(mean)


def close(found, golden):
    golden = golden.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, golden, atol=2e-5 * np.abs(golden).max(), rtol=0)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.longer
def test_the_published_size_has_the_published_parameter_counts():
    state = nnx.eval_shape(lambda: nnx.state(SDVAE(rngs=nnx.Rngs(0)), nnx.Param))
    assert count(state["encoder"]) == 34_163_592
    assert count(state["decoder"]) == 49_490_179
    assert count(state) == 83_653_863


@pytest.mark.parametrize("form", few(1, ["diffusers", "old", "original"]))
def test_published_weights_of_every_naming_give_the_published_numbers(form, tmp_path):
    vae = loaded(tmp_path, published(form))
    x = GOLDEN["x"].transpose(0, 2, 3, 1)
    mean, log_variance, decoded = run(vae.network.module(vae.params), x)
    close(mean, GOLDEN["mean"])
    close(log_variance, GOLDEN["log_variance"])
    close(decoded, GOLDEN["decoded"])
    section = vae.sidecar["model"]
    assert section["block_out_channels"] == (32, 64, 64) and section["layers_per_block"] == 1


def test_a_missing_or_foreign_array_is_named(tmp_path):
    arrays = published("old")
    del arrays["decoder.up_blocks.1.upsamplers.0.conv.bias"]
    with pytest.raises(ValueError, match=r"upsamplers.0.conv.bias is missing.*stages/1/resample"):
        loaded(tmp_path, arrays)
    arrays = published("diffusers") | {"decoder.logvar": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match=r"decoder.logvar, of shape \(1,\), has no place"):
        loaded(tmp_path, arrays)


@pytest.mark.longer
def test_bfloat16_stays_close_and_returns_float32(tmp_path):
    exact = loaded(tmp_path, published("diffusers"))
    half = loaded(tmp_path, published("diffusers"), dtype="bfloat16")
    x = GOLDEN["x"].transpose(0, 2, 3, 1)
    one, other = (run(vae.network.module(vae.params), x) for vae in (exact, half))
    for a, b in zip(one, other, strict=True):
        assert b.dtype == jnp.float32
        assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()


@pytest.mark.longer
def test_an_image_is_encoded_the_same_in_any_batch_and_at_any_size(tmp_path):
    vae = loaded(tmp_path, published("diffusers"))
    x = GOLDEN["x"].transpose(0, 2, 3, 1)
    both, alone = (run(vae.network.module(vae.params), part) for part in (x, x[1:]))
    for a, b in zip(both, alone, strict=True):
        np.testing.assert_allclose(a[1:], b, atol=1e-5)
    assert both[0].shape == (2, 4, 6, 4) and both[2].shape == x.shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(block_out_channels=(32, 48)), "multiples of 32"),
        (dict(block_out_channels=()), "multiples of 32"),
        (dict(widths=(32,)), "widths"),
        (dict(dtype="float8"), "dtype .float8. is not one of"),
    ],
)
def test_a_section_that_makes_no_autoencoder_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        builders.build(dict(name="sd_vae", **fields))


@pytest.mark.parametrize(
    "shape",
    [
        (10, 8, 3),
        *(pytest.param(one, marks=pytest.mark.longer) for one in [(8, 8, 1), (0, 8, 3)]),
        pytest.param((8, 3), marks=pytest.mark.untyped),
    ],
)
def test_images_that_do_not_fit_are_refused(shape):
    vae = nnx.eval_shape(lambda: SDVAE(block_out_channels=(32, 32, 32), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="3 channels and sides divisible by 4"):
        jax.eval_shape(lambda module: module.encode(jnp.zeros((1, *shape))), vae)


# The posterior that every autoencoder here returns.


def test_the_divergence_is_zero_at_the_unit_normal_and_known_elsewhere():
    assert float(kl_to_unit(jnp.zeros(()), jnp.zeros(()))) == 0
    # N(1, 4): (1 + 4 - 1 - ln 4) / 2.
    assert float(kl_to_unit(jnp.ones(()), jnp.log(4.0))) == pytest.approx(2 - math.log(2))


def test_samples_have_the_mean_and_the_variance():
    noise = jax.random.normal(jax.random.key(0), (100_000,))
    sample = draw(jnp.float32(3.0), jnp.log(jnp.float32(0.25)), noise)
    assert float(sample.mean()) == pytest.approx(3, abs=0.01)
    assert float(sample.std()) == pytest.approx(0.5, abs=0.01)


def test_log_variances_are_bounded():
    moments = jnp.array([[[[1.0, 2.0, -90.0, 90.0]]]])
    mean, log_variance = from_moments(moments)
    np.testing.assert_array_equal(mean[0, 0, 0], [1, 2])
    np.testing.assert_array_equal(log_variance[0, 0, 0], [-30, 20])
