"""SongUNet: published sizes and outputs, its types, its embedding, how it starts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.edm_unets import (
    CLASSES,
    DDPMPP,
    NCSNPP,
    count,
    denoiser,
    golden,
    inputs,
    run,
    shapes_of,
)
from networks.filled import initialise
from tables.everyday import few

from guidestar.models import SongUNet
from guidestar.models.checkpoints.files import flatten
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.unets.song import FourierFeatures, published, song_arrangement

# Learned numbers of the published networks; the 128 frequencies of NCSN++ are not among them.
PARAMETERS = {
    ("ddpmpp-cifar10", 0): 55_733_891,
    ("ddpmpp-cifar10", 10): 55_735_299,
    ("ncsnpp-cifar10", 0): 56_397_827,
    ("ddpmpp-ffhq64", 0): 61_805_571,
    ("ncsnpp-ffhq64", 0): 62_761_091,
}


@pytest.mark.longer
@pytest.mark.parametrize(("name", "classes"), few(2, PARAMETERS))
def test_published_networks_have_the_published_parameter_counts(name, classes):
    module = nnx.eval_shape(lambda: SongUNet.from_name(name, num_classes=classes, rngs=nnx.Rngs(0)))
    _, shapes = split(module, num_classes=classes, shape=())
    frequencies = shapes.pop("map_noise", {"freqs": jnp.zeros(0)})["freqs"]
    assert count(shapes) == PARAMETERS[name, classes]
    assert frequencies.shape == ((128,) if name.startswith("ncsnpp") else (0,))
    assert module.image_size == (64 if "64" in name else 32)


def test_published_networks_of_one_size_differ_in_dropout_alone():
    for network in ("ddpmpp", "ncsnpp"):
        faces, animals = (published(f"{network}-{data}") for data in ("ffhq64", "afhqv2-64"))
        assert faces | {"dropout": 0.25} == animals


def test_attention_is_where_it_was_published():
    arrangement = song_arrangement(32, 128, (2, 2, 2), 4, (16,))
    names = [stage.name for stage in arrangement.blocks if stage.attends]
    encoder = [f"16x16_block{i}" for i in range(4)]
    assert names == [*encoder, "8x8_in0", "16x16_block4"]
    assert arrangement.connections == 15


@pytest.mark.parametrize("name", ["edm_ddpmpp", "edm_ncsnpp", "vp_ddpmpp", "ve_ncsnpp"])
def test_a_published_checkpoint_denoises_as_published(name, tmp_path):
    loaded, arrays = golden(name, tmp_path, preconditioner=name.partition("_")[0])
    x, sigma, labels = (arrays[key] for key in ("x", "sigma", "labels"))
    found = jax.jit(Denoiser.__call__)(loaded.denoiser, x, sigma, labels)
    for one, expected in zip(found, arrays["denoised"], strict=True):
        np.testing.assert_allclose(one, expected, atol=2e-5 * np.abs(expected).max())


def test_the_fields_of_a_checkpoint_are_read_from_its_arrays(tmp_path):
    loaded, _ = golden("edm_ncsnpp", tmp_path)
    expected = dict(
        image_size=16,
        channels=3,
        num_classes=10,
        augment_dim=9,
        model_channels=16,
        channel_mult=[1, 2],
        channel_mult_emb=4,
        num_blocks=1,
        attn_resolutions=[8],
        embedding_type="fourier",
        channel_mult_noise=2,
        encoder_type="residual",
        decoder_type="standard",
        resample_filter=[1, 3, 3, 1],
        learn_variance=False,
        preconditioner="edm",
    )
    assert loaded.sidecar["model"] == expected | {"name": "song_unet"}


def without_class(params):
    """Return the parameters of the unconditional network that answers as the null class does."""
    bias = params["map_label"]["bias"] @ params["map_layer0"]["kernel"]
    first = params["map_layer0"] | {"bias": params["map_layer0"]["bias"] + bias}
    kept = {name: part for name, part in params.items() if name != "map_label"}
    return kept | {"map_layer0": first}


@pytest.mark.longer
def test_the_null_class_is_no_class():
    one = denoiser(DDPMPP)
    x, time, label = inputs()
    null = run(one.network, one.params, x, time, np.full(3, CLASSES))
    np.testing.assert_array_equal(run(one.network, one.params, x, time, None), null)
    unconditional = denoiser(DDPMPP | dict(num_classes=0))
    alone = run(unconditional.network, without_class(one.params), x, time, None)
    np.testing.assert_allclose(alone, null, atol=1e-5)
    assert np.abs(run(one.network, one.params, x, time, label) - null).max() > 1e-3


@pytest.mark.longer
def test_labels_of_augmentation_change_the_output_and_zeros_are_none():
    one = denoiser(DDPMPP)
    plain = run(one.network, one.params, *inputs())
    zeros = run(one.network, one.params, *inputs(), augment=np.zeros((3, 9), "f"))
    np.testing.assert_array_equal(zeros, plain)
    ones = run(one.network, one.params, *inputs(), augment=np.ones((3, 9), "f"))
    assert np.abs(ones - plain).max() > 1e-3


@pytest.mark.longer
@pytest.mark.parametrize("model", [DDPMPP, NCSNPP], ids=["DDPM++", "NCSN++"])
def test_samples_do_not_see_each_other_and_see_their_time(model):
    one = denoiser(model)
    x, time, label = inputs()
    batch = run(one.network, one.params, x, time, label)
    alone = run(one.network, one.params, x[1:2], time[1:2], label[1:2])
    np.testing.assert_allclose(batch[1:2], alone, atol=1e-5)
    later = run(one.network, one.params, x, time + 0.3, label)
    assert np.abs(later - batch).max(axis=(1, 2, 3)).min() > 1e-4


def zeroed(params, *path, but=()):
    """Return parameters with the arrays of a layer zero, but for those named."""
    name, *rest = path
    if rest:
        return params | {name: zeroed(params[name], *rest, but=but)}
    return params | {name: {k: v if k in but else 0 * v for k, v in params[name].items()}}


@pytest.mark.longer
def test_an_encoder_beside_adds_the_smaller_inputs_that_it_projects():
    one, plain = denoiser(DDPMPP | dict(encoder_type="skip")), denoiser(DDPMPP)
    off = zeroed(one.params, "enc", "4x4_aux_skip")
    shared = off | {"enc": {k: v for k, v in off["enc"].items() if "aux" not in k}}
    expected = run(plain.network, shared, *inputs())
    np.testing.assert_allclose(run(one.network, off, *inputs()), expected, atol=1e-5)
    assert np.abs(run(one.network, one.params, *inputs()) - expected).max() > 1e-3


@pytest.mark.longer
def test_a_decoder_beside_sums_the_outputs_of_all_resolutions():
    one, plain = denoiser(DDPMPP | dict(decoder_type="skip")), denoiser(DDPMPP)
    off = zeroed(one.params, "dec", "4x4_aux_conv")
    shared = off | {"dec": {k: v for k, v in off["dec"].items() if "4x4_aux" not in k}}
    expected = run(plain.network, shared, *inputs())
    np.testing.assert_allclose(run(one.network, off, *inputs()), expected, atol=1e-5)
    # Of the coarse output's convolution the bias alone: the same everywhere when it is enlarged.
    biased = zeroed(one.params, "dec", "4x4_aux_conv", but=("bias",))
    shifted = run(one.network, biased, *inputs()) - expected
    bias = biased["dec"]["4x4_aux_conv"]["bias"]
    np.testing.assert_allclose(shifted, np.broadcast_to(bias, shifted.shape), atol=1e-5)


def test_fourier_frequencies_are_random_and_not_learned():
    features = FourierFeatures(20_000, rngs=nnx.Rngs(0))
    assert float(features.freqs[...].std()) == pytest.approx(16, rel=0.03)
    time = jnp.array([0.3])
    angles = 2 * math.pi * 0.3 * np.asarray(features.freqs[...], np.float64)
    halves = np.split(np.asarray(features(time))[0], 2)
    np.testing.assert_allclose(halves, [np.sin(angles), np.cos(angles)], atol=1e-4)
    slopes = nnx.grad(lambda module: module(time).sum())(features)
    assert not np.any(slopes["freqs"][...])
    spec, _, shapes = shapes_of(NCSNPP)
    assert [path for path in flatten(shapes) if spec.frozen(path)] == ["map_noise/freqs"]


@pytest.mark.longer
def test_an_untrained_network_hardly_answers_and_has_loss_one():
    spec, network, _ = shapes_of(DDPMPP)
    fresh = initialise(spec.build, jax.random.key(0), num_classes=CLASSES, shape=spec.shape)[1]
    one = Denoiser(fresh, network, spec.preconditioner)
    data = 0.5 * jax.random.normal(jax.random.key(1), (64, *spec.shape))
    noise = jax.random.normal(jax.random.key(2), data.shape)
    denoise = jax.jit(Denoiser.__call__)
    for sigma in (0.05, 3.0):
        error = denoise(one, data + sigma * noise, sigma, None) - data
        loss = spec.preconditioner.loss_weight(jnp.asarray(sigma)) * jnp.mean(error**2)
        assert float(loss) == pytest.approx(1, abs=0.05)
    block = fresh["enc"]["4x4_block0"]
    for part, fan_in, fan_out, gain in (
        ("conv0", 72, 144, 1),
        ("conv1", 144, 144, 1e-5),
        ("qkv", 16, 48, 0.2**0.5),
        ("proj", 16, 16, 1e-5),
    ):
        # Xavier's bound, reached by the largest of many draws.
        bound = gain * math.sqrt(6 / (fan_in + fan_out))
        assert np.abs(block[part]["kernel"]).max() == pytest.approx(bound, rel=0.05)
        assert np.abs(block[part]["kernel"]).max() <= bound
        assert not np.any(block[part]["bias"])


@pytest.mark.longer
def test_bfloat16_stays_close_and_returns_float32():
    one, half = denoiser(DDPMPP), denoiser(DDPMPP | dict(dtype="bfloat16"))
    exact = run(one.network, one.params, *inputs())
    rounded = run(half.network, one.params, *inputs())
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.longer
def test_another_size_is_denoised_as_by_a_network_of_that_size():
    one, other = denoiser(DDPMPP), denoiser(DDPMPP | dict(image_size=12, attn_resolutions=(6,)))
    renamed = {
        side: {
            name.replace("4x4", "6x6").replace("8x8", "12x12"): part
            for name, part in one.params[side].items()
        }
        for side in ("enc", "dec")
    }
    x, time, label = inputs(rows=12, columns=12)
    expected = run(other.network, one.params | renamed, x, time, label)
    np.testing.assert_array_equal(run(one.network, one.params, x, time, label), expected)
    wide = jax.eval_shape(one.network, one.params, *inputs(rows=4, columns=8))
    assert wide.shape == (3, 4, 8, 2)


def test_a_network_built_twice_is_one_program(compilations):
    first, second = denoiser(DDPMPP), denoiser(DDPMPP)
    assert first.network == second.network and hash(first.network) == hash(second.network)
    assert first.network != denoiser(DDPMPP | dict(dropout=0.2)).network
    run(first.network, first.params, *inputs())
    with compilations() as compiled:
        run(second.network, second.params, *inputs())
    assert not compiled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_size=9), "cannot be halved 1 times"),
        (dict(channel_mult=()), "needs a level"),
        (dict(num_blocks=0), "num_blocks must be 1 or more"),
        (dict(model_channels=36, channel_mult=(1, 3)), "do not divide into 32 groups"),
        (dict(embedding_type="learned"), "embedding_type must be one of positional, fourier"),
        (dict(encoder_type="wide"), "encoder_type must be one of standard, skip, residual"),
        (dict(decoder_type="residual"), "decoder_type must be one of standard, skip"),
        (dict(resample_filter=(1, 2, 1)), "even number of taps"),
        (dict(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (dict(size="ddpmpp-lsun"), "unknown SongUNet 'ddpmpp-lsun'; use one of ddpmpp-cifar10"),
        (dict(widht=3), "widht"),
        (dict(preconditioner="vpp"), "not one of"),
    ],
)
def test_fields_that_make_no_network_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(DDPMPP | changes)


@pytest.mark.parametrize(
    "shape",
    [(7, 8, 2), (8, 5, 2), (8, 8, 3), (0, 8, 2), pytest.param((8, 8), marks=pytest.mark.untyped)],
)
def test_inputs_of_other_channels_or_odd_sizes_are_refused(shape):
    one = denoiser(DDPMPP)
    with pytest.raises(ValueError, match="takes 8x8x2 inputs, or others of 2 channels and sides"):
        one.network(one.params, jnp.zeros((1, *shape)), jnp.zeros(1), None)


def test_labels_of_augmentation_of_another_width_are_refused():
    one, none = denoiser(DDPMPP), denoiser(DDPMPP | dict(augment_dim=0))
    with pytest.raises(ValueError, match=r"must be \[3, 9\]"):
        one.network(one.params, *inputs(), augment=jnp.zeros((3, 8)))
    with pytest.raises(ValueError, match="augment_dim is 0"):
        none.network(none.params, *inputs(), augment=jnp.zeros((3, 9)))


def test_a_section_replaces_fields_of_a_published_size():
    spec, _, shapes = shapes_of(
        dict(name="song_unet", size="ncsnpp-cifar10", num_blocks=1, preconditioner="ve")
    )
    # The pyramid starts from the image and goes on from what it made.
    assert shapes["enc"]["16x16_aux_residual"]["kernel"].shape == (3, 3, 3, 256)
    assert shapes["enc"]["8x8_aux_residual"]["kernel"].shape == (3, 3, 256, 256)
    assert "32x32_block0" in shapes["enc"] and "32x32_block1" not in shapes["enc"]
    assert spec.sigma_range == (0.02, 100.0) and spec.shape == (32, 32, 3)
