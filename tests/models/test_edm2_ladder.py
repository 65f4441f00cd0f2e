"""The ladder of the EDM2 paper: what each config has, what it does with weights and features."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.edm2_unets import CLASSES, SMALL, TINY, denoise, inputs, learned, make, with_params
from networks.edm_unets import count
from tables.everyday import few

from guidestar.models import builders
from guidestar.models.checkpoints.files import flatten
from guidestar.models.layers.magnitude import is_constant, normalise_weights
from guidestar.models.spec import nothing, unchanged
from guidestar.models.unets.edm2_blocks import scale_groups
from guidestar.models.unets.edm2_ladder import CONFIGS

# Millions of parameters of size S on latents, arXiv 2312.02696, figures 16 to 22.
PARAMETERS = dict(A=295.9, B=291.8, C=277.8, D=277.8, E=277.8, F=280.2, G=280.2)
# ADM needs channels for its groups and heads.
BASELINE = {k: v for k, v in SMALL.items() if k != "channels_per_head"} | dict(model_channels=64)
DESIGNED = "CDEFG"


@cache
def tiny(config):
    """Return spec and denoiser of a tiny network of a config."""
    if config in DESIGNED:
        return make(SMALL, config=config)
    return make(BASELINE, config=config, channel_mult_emb=1)


@cache
def shapes(config):
    """Return spec, module and parameters' shapes of size S."""
    spec = builders.build({"name": "edm2_unet", "size": "S", "config": config})
    return spec, spec.module, spec.shapes


@pytest.mark.longer
@pytest.mark.parametrize("config", few(2, PARAMETERS))
def test_each_config_has_the_published_number_of_parameters(config):
    spec, _, params = shapes(config)
    assert round(count(learned(params)) / 1e6, 1) == PARAMETERS[config]
    assert spec.latent and spec.shape == (64, 64, 4)


@pytest.mark.longer
def test_what_training_does_to_weights_and_constants():
    specs = {config: tiny(config)[0] for config in CONFIGS}
    assert [c for c, spec in specs.items() if spec.project is normalise_weights] == list("EFG")
    assert [c for c, spec in specs.items() if spec.project is unchanged] == list("ABCD")
    assert [c for c, spec in specs.items() if spec.frozen is nothing] == ["A"]
    assert all(spec.frozen is is_constant for c, spec in specs.items() if c != "A")


@pytest.mark.longer
def test_biases_norms_layers_and_gains_come_and_go():
    has = {
        config: {
            kind: any(path.endswith(kind) for path in flatten(shapes(config)[2]))
            for kind in ("bias", "scale", "emb_hidden/kernel", "gain")
        }
        for config in CONFIGS
    }
    assert [c for c in CONFIGS if has[c]["bias"]] == ["A", "B"]
    assert [c for c in CONFIGS if has[c]["scale"]] == ["A", "B"]
    assert [c for c in CONFIGS if has[c]["emb_hidden/kernel"]] == ["C", "D", "E"]
    assert [c for c in CONFIGS if has[c]["gain"]] == ["G"]


@pytest.mark.longer
def test_attention_at_32x32_is_left_out_from_b_on():
    assert any("32x32" in path and "qkv" in path for path in flatten(shapes("A")[2]))
    for config in CONFIGS[1:]:
        paths = flatten(shapes(config)[2])
        assert not any("32x32" in path and "qkv" in path for path in paths)
        assert any("16x16" in path and "qkv" in path for path in paths)


@pytest.mark.longer
def test_dropout_is_a_tenth_until_g_unless_asked_for():
    asked = builders.build(SMALL | {"config": "F", "dropout": 0.25}).build(nnx.Rngs(0))
    assert asked.enc["4x4_block0"].dropout == 0.25
    found = [shapes(config)[1].enc["64x64_block0"].dropout for config in CONFIGS]
    assert found == [*[0.1] * 6, 0.0]


@pytest.mark.longer
@pytest.mark.parametrize("config", few(2, CONFIGS))
def test_each_config_starts_where_the_paper_says(config):
    """With c_skip x where something is zero at first, with features of magnitude one elsewhere."""
    spec, _ = tiny(config)
    module = spec.build(nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(4, 4, 4, 2)).astype("f")
    found = jax.jit(lambda x: module(x, jnp.zeros(4), jnp.arange(4) % CLASSES))(x)
    assert np.isfinite(found).all()
    assert np.any(found) == (config in "CDEF")


@pytest.mark.longer
@pytest.mark.parametrize("config", few(2, "ABCDEF"))
def test_noise_level_and_class_each_change_the_output(config):
    x, sigma, label = inputs(4)
    _, fresh = tiny(config)
    fill = lambda path, w: w + 0.1 * np.random.default_rng(0).normal(size=w.shape)  # noqa: E731
    denoiser = with_params(fresh, fill)
    run = jax.jit(denoiser.network)
    plain = run(denoiser.params, x, sigma, label)
    assert np.abs(run(denoiser.params, x, sigma + 0.5, label) - plain).max() > 1e-4
    assert np.abs(run(denoiser.params, x, sigma, (label + 1) % CLASSES) - plain).max() > 1e-4


@pytest.mark.longer
@pytest.mark.parametrize("config", few(2, DESIGNED))
def test_the_norms_of_weights_matter_in_c_alone(config):
    _, denoiser = tiny(config)
    larger = with_params(denoiser, lambda path, w: 4 * w if path.endswith("kernel") else w)
    plain, found = denoise(denoiser, *inputs(4)), denoise(larger, *inputs(4))
    difference = np.abs(found - plain).max() / np.abs(plain).max()
    assert difference > 0.1 if config == "C" else difference < 2e-3


@pytest.mark.longer
@pytest.mark.parametrize("config", "CG")
def test_attention_does_not_see_the_length_of_queries_and_keys(config):
    _, denoiser = tiny(config)
    longer = with_params(denoiser, lambda path, w: 30 * w if "attn_qkv" in path else w)
    plain, found = denoise(denoiser, *inputs(4)), denoise(longer, *inputs(4))
    np.testing.assert_allclose(found, plain, atol=2e-3 * np.abs(plain).max())


def test_the_group_norm_keeps_the_mean_and_divides_by_the_magnitude():
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(2, 3, 5, 12)).astype("f")
    groups = x.reshape(2, 3, 5, 3, 4).astype(np.float64)
    square = np.mean(groups**2, axis=(1, 2, 4), keepdims=True)
    expected = (groups / np.sqrt(square + 1e-4)).reshape(x.shape)
    np.testing.assert_allclose(scale_groups(jnp.asarray(x)), expected, rtol=1e-5)
    half = scale_groups(jnp.asarray(100 * x, jnp.float16))
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("config", "BCDEFG")
def test_the_loss_at_a_noise_level_is_predicted_by_one_layer(config):
    _, denoiser = tiny(config)
    params, time = denoiser.params, jnp.linspace(-1.5, 1.0, 7)
    fourier, layer = params["logvar_fourier"], params["logvar_linear"]
    scale = 2**0.5 if config == "G" else 1.0
    features = scale * np.cos(np.outer(time, fourier["freqs"]) + fourier["phases"])
    weights = np.asarray(layer["kernel"])
    if config not in "BC":
        weights = weights / np.linalg.norm(weights)
    expected = features @ weights + layer.get("bias", 0)
    found = denoiser.network.module(params).log_variance(time)
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-3, atol=1e-4)


def test_config_a_predicts_no_loss():
    _, denoiser = tiny("A")
    assert not hasattr(denoiser.network.module(denoiser.params), "log_variance")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(config="H"), "config 'H' is not one of A, B, C"),
        (dict(config="A"), "'channels_per_head'"),
        (dict(size="XXXS"), "unknown EDM2 network"),
        (dict(channels_per_head=32), "do not divide into heads of 32"),
        (dict(config="C", model_channels=6), "do not divide into 4 groups"),
        (dict(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (dict(image_size=9), "cannot be halved"),
        (dict(preconditioner="none"), "preconditioner 'none'"),
    ],
)
def test_fields_that_make_no_network_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        builders.build(TINY | fields)


@pytest.mark.longer
def test_latents_are_what_published_networks_of_512_pixels_denoise():
    def latent(**fields):
        return builders.build(TINY | fields).latent

    assert not latent()
    assert latent(latent=True)
    wide = dict(model_channels=64, channels_per_head=64, attn_resolutions=())
    sizes = {size: {"name": "edm2_unet", "size": size} | wide for size in ("XS", "img64-XS")}
    assert [builders.build(section).latent for section in sizes.values()] == [True, False]
    assert not builders.build(sizes["XS"] | {"latent": False}).latent
