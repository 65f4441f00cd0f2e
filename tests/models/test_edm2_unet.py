"""EDM2UNet: published sizes and outputs, how it starts, what it computes, how it trains."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks.edm2_unets import (
    CLASSES,
    CONNECTIONS,
    SMALL,
    denoise,
    inputs,
    learned,
    make,
    recorded,
    with_params,
)
from networks.edm_unets import count
from places import GOLDEN
from tables.everyday import few

from guidestar.core.macs import macs
from guidestar.models import EDM2UNet
from guidestar.models.checkpoints import load
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys import edm2 as keys
from guidestar.models.checkpoints.readers import open_weights
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.preconditioning import EDM
from guidestar.models.unets.edm2 import edm2_arrangement, published
from guidestar.training.gradients import rematerialised

CHECKPOINT = GOLDEN / "edm2_unet_tiny.pkl"
# Parameters of the published sizes with the head of 128, without the Fourier features' constants.
PARAMETERS = {
    "XXS": 31_309_029,
    "XS": 124_713_253,
    "S": 280_212_837,
    "M": 497_807_781,
    "L": 777_498_085,
    "XL": 1_119_283_749,
    "XXL": 1_523_164_773,
    "img64-S": 280_209_381,
}
# The bottleneck of the tiny network, and what its encoder makes.
FEATURES = (("h_space", None), *(("skip", n) for n in range(CONNECTIONS)))
GIGA_MACS = {"XS": 44.95, "S": 100.8, "M": 179, "L": 279, "XL": 402, "XXL": 547}


@cache
def shapes_of(name, **overrides):
    """Return network and parameters' shapes of a published size."""
    build = nnx.eval_shape(lambda: EDM2UNet.from_name(name, rngs=nnx.Rngs(0), **overrides))
    return split(build, num_classes=build.num_classes, shape=(64, 64, build.channels))


@pytest.fixture(scope="module")
def golden():
    arrays = np.load(GOLDEN / "edm2_unet_tiny.npz")
    return load(CHECKPOINT), arrays


# Published sizes, checkpoints and outputs.


@pytest.mark.parametrize("name", few(3, PARAMETERS))
def test_published_sizes_have_the_published_parameter_counts(name):
    network, params = shapes_of(name)
    assert count(learned(params)) == PARAMETERS[name]
    constants = count(params) - count(learned(params))
    assert constants == 2 * (published(name)["model_channels"] + 128)
    assert network.shape == (64, 64, 3 if "img64" in name else 4)


def test_the_unconditional_network_has_no_layer_for_labels():
    network, params = shapes_of("XS", num_classes=0)
    assert count(learned(params)) == 124_201_253
    assert "condition_embedding" not in network.sites


@pytest.mark.parametrize("name", few(2, GIGA_MACS))
def test_published_sizes_cost_the_published_multiply_adds(name):
    network, params = shapes_of(name)
    digits = 4 if GIGA_MACS[name] < 150 else 3
    found = macs(Denoiser(params, network, EDM())) / 1e9
    assert float(f"{found:.{digits}g}") == GIGA_MACS[name]


def test_names_choose_size_data_and_dropout():
    assert published("S") == published("img512-s") == published("img64-S") | {"channels": 4}
    assert published("XS")["dropout"] == 0 and published("M")["dropout"] == 0.1
    for name in ("XXXL", "img256-S", ""):
        with pytest.raises(ValueError, match="unknown EDM2 network"):
            published(name)


@pytest.mark.parametrize("output", ["denoised", "denoised_unconditional"])
def test_a_published_checkpoint_denoises_as_published(golden, output):
    loaded, arrays = golden
    x, label = arrays["x"].transpose(0, 2, 3, 1), arrays["labels"]
    label = np.full_like(label, 10) if output.endswith("unconditional") else label
    found = denoise(loaded.denoiser, x, arrays["sigma"], label)
    for one, expected in zip(found, arrays[output].transpose(0, 2, 3, 1), strict=True):
        np.testing.assert_allclose(one, expected, atol=2e-5 * np.abs(expected).max())


def test_a_published_checkpoint_predicts_the_published_log_variance(golden):
    loaded, arrays = golden
    time = loaded.spec.preconditioner.coefficients(jnp.asarray(arrays["sigma"])).noise
    found = loaded.network.module(loaded.params).log_variance(time)
    np.testing.assert_allclose(found, arrays["logvar"].reshape(-1), atol=2e-5)


def test_the_fields_of_a_checkpoint_are_read_from_it():
    weights = open_weights(CHECKPOINT)
    found = keys.recognise(weights)
    assert found == dict(
        image_size=16,
        channels=3,
        num_classes=10,
        model_channels=32,
        channel_mult=[1, 2],
        channel_mult_noise=1,
        channel_mult_emb=2,
        num_blocks=2,
        attn_resolutions=[8],
        channels_per_head=16,
        dropout=0,
        clip=256,
        label_balance=0.5,
        concat_balance=0.5,
        res_balance=0.3,
        attn_balance=0.3,
        log_variance_features=128,
        sigma_data=0.5,
        latent=False,
    )
    for encoder, latent in (("StabilityVAEEncoder", True), ("StandardRGBEncoder", False)):
        metadata = {"encoder": {"class_name": encoder, "state": {}}}
        assert keys.recognise(dataclasses.replace(weights, metadata=metadata))["latent"] is latent
    others = {name: t for name, t in weights.tensors.items() if "emb_fourier" not in name}
    assert keys.recognise(dataclasses.replace(weights, tensors=others)) is None


def test_published_names_and_paths_here_are_one_to_one(golden):
    loaded, _ = golden
    fields = {k: v for k, v in loaded.sidecar["model"].items() if k in keys.keys.__annotations__}
    paths = [entry.path for entry in keys.keys(**fields).values()]
    assert len(set(paths)) == len(paths)
    assert set(paths) == flatten(loaded.params).keys()


def test_attention_and_skip_connections_are_where_they_were_published():
    arrangement = edm2_arrangement(64, 192, (1, 2, 3, 4), 3, (16, 8))
    assert arrangement.attentions == 15 and len(arrangement.blocks) == 36
    finest = [stage for stage in arrangement.decoder if stage.name.startswith("64x64")]
    assert [stage.takes for stage in finest] == [None, 3, 2, 1, 0]


# How it starts, and what the norms of weights do.


@pytest.mark.longer
def test_a_fresh_network_denoises_to_c_skip_x():
    spec, fresh = make(gain=0.0)
    x, sigma, label = inputs()
    c_skip = 0.25 / (sigma**2 + 0.25)
    np.testing.assert_allclose(
        denoise(fresh, x, sigma, label), x * c_skip[:, None, None, None], rtol=1e-6
    )
    assert spec.preconditioner == EDM(0.5) and spec.sigma_range == (0.002, 80.0)


@pytest.mark.longer
def test_the_head_for_the_loss_starts_at_about_one():
    _, fresh = make(SMALL, gain=0.0)
    found = fresh.network.module(fresh.params).log_variance(jnp.linspace(-1.5, 1.1, 200))
    assert found.shape == (200,)
    assert float(jnp.sqrt(jnp.mean(found**2))) == pytest.approx(1.0, abs=0.5)


@pytest.mark.longer
def test_features_keep_magnitude_one_all_the_way():
    """Less than a border of zeros takes away."""
    _, fresh = make(gain=0.0, model_channels=32, image_size=32, attn_resolutions=(16,))
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 2)).astype("f")
    features = recorded(fresh, FEATURES, x, jnp.zeros(4), jnp.arange(4) % CLASSES)
    magnitudes = [float(jnp.sqrt(jnp.mean(each**2))) for each in features]
    np.testing.assert_allclose(magnitudes, 0.95, atol=0.1)


@pytest.mark.longer
def test_features_are_clipped_after_each_block():
    _, denoiser = make(clip=0.5)
    bottleneck, first, *blocks = recorded(denoiser, FEATURES, *inputs())
    assert [float(jnp.abs(each).max()) for each in (bottleneck, *blocks)] == [0.5] * 4
    assert float(jnp.abs(first).max()) > 0.5


@pytest.mark.longer
def test_the_norm_of_stored_weights_changes_nothing():
    """But for the 1e-4 that guards weights of zero, in each of twenty layers."""
    _, denoiser = make()
    larger = with_params(denoiser, lambda path, w: 7 * w if path.endswith("kernel") else w)
    plain, found = denoise(denoiser, *inputs()), denoise(larger, *inputs())
    assert 0 < np.abs(found - plain).max() < 1e-3 * np.abs(plain).max()


# What it computes.


@pytest.mark.longer
def test_no_label_is_the_one_after_the_last_and_adds_nothing():
    _, denoiser = make()
    x, sigma, label = inputs()
    null = denoise(denoiser, x, sigma, 0 * label + CLASSES)
    np.testing.assert_allclose(denoise(denoiser, x, sigma, None), null, rtol=1e-5)
    turned = with_params(denoiser, lambda path, w: -w if "emb_label" in path else w)
    np.testing.assert_array_equal(denoise(turned, x, sigma, 0 * label + CLASSES), null)
    assert np.abs(denoise(turned, x, sigma, label) - null).max() > 1e-3


def test_samples_of_a_batch_do_not_see_each_other():
    _, denoiser = make()
    x, sigma, label = inputs()
    whole = denoise(denoiser, x, sigma, label)
    turned = denoise(denoiser, x[::-1], sigma[::-1], label[::-1])
    np.testing.assert_allclose(turned[::-1], whole, atol=1e-5)
    other = denoise(denoiser, np.concatenate([x[:1], 0 * x[1:]]), sigma, label)
    np.testing.assert_allclose(other[0], whole[0], atol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 0.005), ("bfloat16", 0.04)])
def test_half_precision_stays_close_and_returns_float32(dtype, bound):
    """float16 has three bits more."""
    _, denoiser = make(SMALL)
    _, half = make(SMALL, dtype=dtype)
    exact, rounded = denoise(denoiser, *inputs(4)), denoise(half, *inputs(4))
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < bound * np.abs(exact).max()


@pytest.mark.longer
def test_dropout_needs_a_key_and_drops_by_sample():
    _, denoiser = make(SMALL, dropout=0.5)
    _, without = make(SMALL)
    x, sigma, label = inputs(4)
    plain = denoise(denoiser, x, sigma, label)
    np.testing.assert_array_equal(plain, denoise(without, x, sigma, label))
    keys = jax.random.split(jax.random.key(1), 3)
    dropped = denoise(denoiser, x, sigma, label, dropout_key=keys)
    assert np.abs(dropped - plain).max(axis=(1, 2, 3)).min() > 1e-2
    turned = denoise(denoiser, x[::-1], sigma[::-1], label[::-1], dropout_key=keys[::-1])
    np.testing.assert_allclose(turned[::-1], dropped, atol=1e-5)


# Training.


def loss(denoiser, params, image, sigma, label, key):
    """Return EDM2's loss, weighted by the uncertainty of each noise level (eq. 21)."""
    column = jnp.asarray(sigma)[:, None, None, None]
    noisy = image + column * jax.random.normal(key, image.shape)
    found = dataclasses.replace(denoiser, params=params)(noisy, sigma, label)
    weight = denoiser.preconditioner.loss_weight(column)
    error = jnp.mean(weight * (found - image) ** 2, axis=(1, 2, 3))
    u = denoiser.network.module(params).log_variance(jnp.log(sigma) / 4)
    return jnp.mean(jnp.exp(-u) * error + u)


@pytest.mark.longer
def test_training_lowers_the_loss_along_the_sphere_of_the_weights():
    spec, denoiser = make(SMALL, gain=0.0)
    _, sigma, label = inputs(4, count=16)
    image = jnp.broadcast_to((0.5 * label - 0.5)[:, None, None, None], (16, 4, 4, 2))
    optimizer = optax.adam(1e-2, b2=0.99)

    @jax.jit
    def step(params, state, key):
        objective = lambda params: loss(denoiser, params, image, sigma, label, key)  # noqa: E731
        value, gradient = jax.value_and_grad(objective)(params)
        updates, state = optimizer.update(gradient, state, params)
        return spec.project(optax.apply_updates(params, updates)), state, value, gradient

    start = params = spec.project(denoiser.params)
    state, values = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(0), 20):
        last = flatten(params)
        params, state, value, gradient = step(params, state, key)
        values.append(float(value))
    assert np.mean(values[-5:]) < np.mean(values[:5]) - 0.2
    gradient, start = flatten(gradient), flatten(start)
    for path, leaf in flatten(params).items():
        assert np.array_equal(leaf, start[path]) == spec.frozen(path), path
        assert spec.frozen(path) or np.any(gradient[path]), path
        if path.endswith("kernel"):
            axes, fan_in = tuple(range(leaf.ndim - 1)), leaf.size // leaf.shape[-1]
            norms = jnp.sqrt(jnp.sum(leaf**2, axes))
            np.testing.assert_allclose(norms, fan_in**0.5, rtol=1e-3, err_msg=path)
            across = jnp.sum(gradient[path] * last[path], axes)
            largest = jnp.sqrt(jnp.sum(gradient[path] ** 2, axes)).max()
            assert np.abs(across).max() < 2e-4 * largest * fan_in**0.5, path


@pytest.mark.longer
def test_blocks_can_be_computed_again_in_the_backward_pass():
    """Those that change the shape too."""
    _, denoiser = make(SMALL)
    x, sigma, label = inputs(4)
    network = rematerialised(denoiser.network, "full")
    program = jax.make_jaxpr(network)(denoiser.params, x, sigma, label)
    assert sum("policy" in equation.params for equation in program.eqns) == 5
