"""Parts of EDM's UNets: resampling, features of time, dropout, the arrangement of blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.edm_unets import DDPMPP, denoiser, inputs, run

from guidestar.models.layers.frequencies import sinusoids
from guidestar.models.layers.starts import Keys
from guidestar.models.unets.blocks import downsampled, group_norm, upsampled
from guidestar.models.unets.dhariwal import dhariwal_arrangement
from guidestar.models.unets.song import song_arrangement
from guidestar.training.gradients import rematerialised

TAPS = [(1, 1), (1, 3, 3, 1), (1, 2)]


def images(rows=6, columns=4):
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, rows, columns, 3)), "f")


def filtered(x, taps):
    """Correlate one axis of numbers with taps over their sum, every other place, zeros around."""
    pad = (len(taps) - 1) // 2
    x, taps = np.pad(x, (pad, pad)), np.asarray(taps) / np.sum(taps)
    return np.array([x[i : i + len(taps)] @ taps for i in range(0, len(x) - len(taps) + 1, 2)])


@pytest.mark.parametrize("taps", TAPS)
def test_downsampling_filters_and_keeps_every_other_pixel(taps):
    x = images()
    expected = np.apply_along_axis(filtered, 2, np.apply_along_axis(filtered, 1, x, taps), taps)
    np.testing.assert_allclose(downsampled(x, taps), expected, atol=1e-6)


@pytest.mark.parametrize("taps", TAPS)
def test_upsampling_is_four_times_the_transpose_of_downsampling(taps):
    small, large = images(3, 2), images(6, 4)
    forward = np.vdot(upsampled(small, taps), large)
    assert forward == pytest.approx(4 * np.vdot(small, downsampled(large, taps)), rel=1e-5)
    assert upsampled(small, taps).shape == large.shape


def test_the_narrow_filter_averages_and_repeats():
    x = images()
    means = x.reshape(2, 3, 2, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(downsampled(x, (1, 1)), means, atol=1e-6)
    np.testing.assert_array_equal(upsampled(x, (1, 1)), x.repeat(2, axis=1).repeat(2, axis=2))


def test_features_of_time_have_their_frequencies_and_their_order():
    time = jnp.array([0.3, -2.0])
    slow = np.asarray(time) * 1e-4, np.asarray(time) * 1e-2
    t = np.asarray(time)
    song = sinusoids(time, 4, endpoint=True, sine_first=True)
    expected = [np.sin(t), np.sin(slow[0]), np.cos(t), np.cos(slow[0])]
    np.testing.assert_allclose(song.T, expected, atol=1e-6)
    adm = sinusoids(time, 4, endpoint=False, sine_first=False)
    expected = [np.cos(t), np.cos(slow[1]), np.sin(t), np.sin(slow[1])]
    np.testing.assert_allclose(adm.T, expected, atol=1e-6)


@pytest.mark.longer
def test_groups_have_four_channels_at_least_and_are_thirty_two_at_most():
    for channels, groups in ((8, 2), (48, 12), (128, 32), (256, 32)):
        assert group_norm(channels, 1e-5, rngs=nnx.Rngs(0)).num_groups == groups
    x = 3 + 5 * np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype("f")
    normal = group_norm(8, 0.0, rngs=nnx.Rngs(0))(x).reshape(2, 16, 2, 4)
    np.testing.assert_allclose(np.mean(normal, axis=(1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(normal, axis=(1, 3)), 1, atol=1e-4)


def test_layers_draw_keys_of_their_own():
    keys, again, other = Keys(nnx.Rngs(0)), Keys(nnx.Rngs(0)), Keys(nnx.Rngs(1))
    drawn = [[jax.random.key_data(k.params()).tolist() for _ in range(3)] for k in (keys, again)]
    assert drawn[0] == drawn[1] and len(set(map(tuple, drawn[0]))) == 3
    assert jax.random.key_data(other.params()).tolist() not in drawn[0]


@pytest.mark.longer
def test_dropout_needs_a_key_and_each_sample_has_its_own():
    one, none = denoiser(DDPMPP | dict(dropout=0.3)), denoiser(DDPMPP | dict(dropout=0.0))
    keys = jax.random.split(jax.random.key(0), 3)
    plain = run(one.network, one.params, *inputs())
    np.testing.assert_array_equal(run(none.network, none.params, *inputs()), plain)
    np.testing.assert_array_equal(
        run(none.network, none.params, *inputs(), dropout_key=keys), plain
    )
    dropped = run(one.network, one.params, *inputs(), dropout_key=keys)
    assert np.abs(dropped - plain).max(axis=(1, 2, 3)).min() > 1e-3
    x, time, label = inputs()
    turned = run(one.network, one.params, x[::-1], time[::-1], label[::-1], dropout_key=keys[::-1])
    np.testing.assert_allclose(turned[::-1], dropped, atol=1e-5)
    # The same sample twice, a single key: the two draw differently, and the same again.
    twice = [np.repeat(a[:1], 3, axis=0) for a in inputs()]
    first = run(one.network, one.params, *twice, dropout_key=jax.random.key(1))
    assert np.abs(first[0] - first[1]).max() > 1e-3
    again = run(one.network, one.params, *twice, dropout_key=jax.random.key(1))
    np.testing.assert_array_equal(again, first)


@pytest.mark.longer
def test_dropout_drops_its_share_and_keeps_the_mean():
    one = denoiser(DDPMPP | dict(dropout=0.3))
    block = one.network.module(one.params).enc["8x8_block0"]
    # A block whose first half gives silu(2) everywhere, and whose second hands it on alone.
    for layer in (block.conv0, block.affine, block.conv1):
        layer.kernel[...], layer.bias[...] = 0 * layer.kernel[...], 0 * layer.bias[...]
    block.norm1.scale[...], block.norm1.bias[...] = np.zeros(8, "f"), np.full(8, 2, "f")
    block.conv1.kernel[...] = np.zeros((3, 3, 8, 8), "f")
    block.conv1.kernel[...][1, 1] = np.eye(8)
    keys = jax.random.split(jax.random.key(0), 16)
    out = block(jnp.zeros((16, 16, 16, 8)), jnp.zeros((16, 32)), (), keys) / 0.5**0.5
    kept = float(jax.nn.silu(2.0)) / 0.7
    assert np.isclose(out, 0, atol=1e-6).mean() == pytest.approx(0.3, abs=0.01)
    assert np.isclose(out[out > 0.1], kept, rtol=1e-5).all()


@pytest.mark.longer
def test_blocks_computed_again_in_the_backward_pass_drop_the_same():
    one = denoiser(DDPMPP | dict(dropout=0.3, image_size=4, channel_mult=(1,)))
    keys = jax.random.split(jax.random.key(0), 3)
    augment = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9)), jnp.float32)

    def slopes(network):
        def loss(params):
            out = network(params, *inputs(3, 4, 4), dropout_key=keys, augment=augment)
            return (out**2).mean()

        return jax.jit(jax.grad(loss))(one.params)

    plain = slopes(one.network)
    again = slopes(rematerialised(one.network, "full"))
    for found, expected in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_blocks_are_numbered_as_they_run_and_connections_as_they_are_made():
    song = song_arrangement(16, 8, (1, 2), 1, (8,))
    assert [(stage.name, stage.fan_in, stage.fan_out, stage.takes) for stage in song.blocks] == [
        ("16x16_block0", 8, 8, None),
        ("8x8_down", 8, 8, None),
        ("8x8_block0", 8, 16, None),
        ("8x8_in0", 16, 16, None),
        ("8x8_in1", 16, 16, None),
        ("8x8_block0", 32, 16, 3),
        ("8x8_block1", 24, 16, 2),
        ("16x16_up", 16, 16, None),
        ("16x16_block0", 24, 8, 1),
        ("16x16_block1", 16, 8, 0),
    ]
    assert [stage.block for stage in song.blocks] == list(range(10))
    assert [stage.block for stage in song.blocks if stage.attends] == [2, 3, 6]
    assert [stage.attention for stage in song.blocks if stage.attends] == [0, 1, 2]
    assert song.bottleneck.name == "8x8_in1" and song.connections == 4
    adm = dhariwal_arrangement(16, 64, (2, 1), 1, (8,))
    assert adm.width == 128
    assert [stage.block for stage in adm.blocks if stage.attends] == [2, 3, 5, 6]
