"""LiteVAE: published sizes, what its parts keep, and its discriminator."""

import ast
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.autoencoders import drawn, images, judge, make, make_judged, section
from tables.everyday import few

from guidestar.core.errors import UserError
from guidestar.models import LiteVAE, builders
from guidestar.models.autoencoders.lite_vae import SIZES, FlatUNet, averaged
from guidestar.models.autoencoders.modulated import ModulatedConv
from guidestar.models.checkpoints import load, save

# Parameters of the published encoders with 12 latent channels.
ENCODERS = {"S": 1_038_012, "B": 6_755_260, "M": 32_754_748, "L": 41_431_612}


@jax.jit
def run(module, x):
    mean, log_variance = module.encode(x)
    return mean, log_variance, module.decode(mean)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def shapes(build):
    return nnx.eval_shape(lambda: nnx.state(build(nnx.Rngs(0)), nnx.Param))


@functools.cache
def unet(fan_in, fan_out, size):
    return count(shapes(lambda rngs: FlatUNet(fan_in, fan_out, *size, dtype=None, rngs=rngs)))


@pytest.mark.longer
@pytest.mark.parametrize("size", few(1, ENCODERS))
def test_published_sizes_have_the_published_encoders(size):
    extractor, aggregator = SIZES[size]
    assert 3 * unet(12, 12, extractor) + unet(36, 24, aggregator) == ENCODERS[size]


@pytest.mark.longer
def test_a_published_size_is_built_by_name():
    state = shapes(lambda rngs: LiteVAE.from_name("S", rngs=rngs))
    assert count(state["encoder"]) == ENCODERS["S"]
    # 49.5 M as in Stable Diffusion: no normalisations; scales and a gain for each convolution.
    assert count(state["decoder"]) == 49_516_963


@pytest.mark.longer
@pytest.mark.parametrize("levels", few(1, [1, 3]))
def test_latents_are_smaller_by_two_a_level_and_images_come_back(levels):
    network, params = make(levels=levels, decoder_widths=(4,) * (levels + 1))
    mean, log_variance, decoded = run(network.module(params), images(2, 16))
    side = 16 // 2**levels
    assert mean.shape == log_variance.shape == (2, side, side, 3)
    assert decoded.shape == (2, 16, 16, 2) and decoded.dtype == jnp.float32


@pytest.mark.longer
def test_an_image_is_encoded_the_same_in_any_batch():
    network, params = make()
    module = network.module(params)
    for both, alone in zip(run(module, images()), run(module, images()[1:2]), strict=True):
        np.testing.assert_allclose(both[1:2], alone, atol=1e-5)


@pytest.mark.longer
def test_bfloat16_stays_close_and_returns_float32():
    (network, params), (half, _) = make(), make(dtype="bfloat16")
    exact, rounded = (run(one.module(params), images()) for one in (network, half))
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == jnp.float32
        assert 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.longer
def test_every_parameter_takes_part_in_the_reconstruction():
    network, params = make()

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(run(network.module(p), images())[2] ** 2))(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_features_of_fine_levels_are_averaged():
    x = jnp.arange(32.0).reshape(1, 4, 8, 1)
    np.testing.assert_array_equal(averaged(x, 1), x)
    np.testing.assert_array_equal(averaged(x, 2)[0, 0, :, 0], [4.5, 6.5, 8.5, 10.5])


@pytest.mark.longer
def test_a_skip_reaches_the_block_of_its_own_place():
    net = FlatUNet(3, 2, 8, (1, 2), dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert [block.first.conv.kernel.shape[2] for block in net.inwards] == [8, 8, 8, 16]
    assert [block.first.conv.kernel.shape[2] for block in net.outwards] == [32, 32, 24, 16]


# Self-modulated convolutions.


@pytest.mark.longer
def test_weights_have_unit_norm_for_each_output_whatever_their_size():
    layer = ModulatedConv(3, 5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.scales[...] = jnp.array([0.1, 2.0, -3.0])
    weight = layer.weight()
    np.testing.assert_allclose((weight**2).sum((0, 1, 2)), 1, rtol=1e-5)
    layer.kernel[...] *= jnp.array([0.1, 1.0, 10.0, 100.0, 7.0])
    np.testing.assert_allclose(layer.weight(), weight, rtol=1e-4)
    layer.gain[...] = jnp.float32(2.0)
    np.testing.assert_allclose((layer.weight() ** 2).sum((0, 1, 2)), 4, rtol=1e-4)


def test_a_scale_changes_how_much_an_input_counts():
    layer = ModulatedConv(2, 1, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.array([[[[1.0], [1.0]]]])
    layer.scales[...] = jnp.array([3.0, 4.0])
    layer.bias[...] = jnp.array([0.5])
    out = layer(jnp.array([[[[1.0, 10.0]]]]))
    assert float(out.squeeze()) == pytest.approx(0.6 + 8 + 0.5, rel=1e-5)


# The discriminator.


@pytest.mark.parametrize("size", [8, 28])
def test_the_discriminator_judges_every_pixel_of_odd_and_even_sizes(size):
    spec = builders.build(judge((4, 8, 8, 8)) | {"image_size": size})
    params = drawn(spec.shapes)
    judged = jax.jit(lambda x: spec.network.module(params)(x))
    x = images(2, size)
    logits = judged(x)
    assert logits.shape == (2, size, size, 1)
    other = x.copy()
    other[0, 0, 0] += 1
    changed = np.abs(judged(other) - logits)[..., 0] > 0
    # One pixel is seen far away through the coarse levels, in its own image alone.
    assert changed[0, 0, 0] and changed[0, 7, 7] and not changed[1].any()


def test_a_discriminator_inside_an_autoencoder_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"set roles.discriminator=(.*) instead") as refused:
        builders.build(section(discriminator=(4,)))
    instead = ast.literal_eval(
        str(refused.value).partition("discriminator=")[2][: -len(" instead")]
    )
    assert instead == {"model": judge(), "frozen": False}
    assert builders.build(instead["model"]).kind == "discriminator"
    with pytest.raises(UserError, match="no field of an autoencoder any more.*: leave it out$"):
        builders.build(section(discriminator=()))
    with pytest.raises(UserError, match="one width or more"):
        builders.build(judge(()))


@pytest.mark.longer
def test_weights_of_an_earlier_release_are_read_without_their_discriminator(tmp_path):
    (_, params), path = make(), tmp_path / "old.safetensors"
    save(path, {**params, "discriminator": make_judged()[1]["discriminator"]}, section(), {})
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["model"]["discriminator"] = [4]
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    found = load(path)
    assert "discriminator" not in found.params and "discriminator" not in found.sidecar["model"]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, found.params, params)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(decoder_widths=(4, 8)), "must be 3 for 2 wavelet levels"),
        (dict(levels=0, decoder_widths=(4,)), "1 or more"),
        (dict(size="XL"), "not one of S, B, M, L"),
        (dict(groups=3), "groups"),
    ],
)
def test_a_section_that_makes_no_autoencoder_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        builders.build(section(**fields))


@pytest.mark.longer
def test_images_that_do_not_fit_are_refused():
    network, params = make()
    with pytest.raises(ValueError, match="2 channels and sides divisible by 4, got"):
        run(network.module(params), images(1, 6))
