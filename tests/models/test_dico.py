"""The diffusion ConvNet: published sizes and numbers, the identity it starts as, its sites."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.filled import Doubled, filled, initialise, one_mode_a_sample, parameters, run
from places import GOLDEN
from tables.everyday import few

from guidestar.core.macs import macs
from guidestar.models import DiCo, builders, features
from guidestar.models.checkpoints import load
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys.dico import keys
from guidestar.models.convnets.dico import (
    STAGES,
    Block,
    ChannelAttention,
    pixel_shuffle,
    pixel_unshuffle,
)
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.preconditioning import Discrete

# Parameters; published "GFLOPs", and to how much they are rounded.
PUBLISHED = {
    "S": (33_137_672, 4.25, 0.01),
    "B": (129_992_712, 16.88, 0.01),
    "L": (463_897_992, 60.24, 0.02),
    "XL": (701_151_368, 87.30, 0.02),
    "H": (1_037_408_328, 194, 0.5),
}
TINY = dict(image_size=8, channels=2, width=4, depths=(2, 1, 1, 1, 1), num_classes=3)
LAYERS = sum(TINY["depths"])


@functools.cache
def make(**changes):
    """Return a tiny network and parameters in which no layer is zero."""
    fields = TINY | changes
    return filled(lambda rngs: DiCo(**fields, rngs=rngs), num_classes=3, shape=(8, 8, 2))


def inputs(batch=3, shape=(8, 8, 2)):
    x = jax.random.normal(jax.random.key(5), (batch, *shape))
    return x, jnp.linspace(0.0, 900.0, batch), jnp.arange(batch) % 3


@pytest.mark.longer
@pytest.mark.parametrize("name", few(2, PUBLISHED))
def test_published_sizes_have_the_published_parameters_and_cost(name):
    count, giga, rounding = PUBLISHED[name]

    def build(rngs):
        return DiCo.from_name(name, scan_layers=True, rngs=rngs)

    assert parameters(build) == count
    network, params = split(
        nnx.eval_shape(lambda: build(nnx.Rngs(0))), num_classes=1000, shape=(32, 32, 4)
    )
    # The published counts are multiply-adds, and with them the elementwise products and means:
    # six numbers a feature and block, of modulations and gates and of the channels' weights.
    width, depths, _ = (DiCo.fields(name)[field] for field in ("width", "depths", "mlp_ratio"))
    sides = (32, 16, 8, 16, 32)
    elementwise = sum(
        6 * depth * n * width * side**2
        for depth, n, side in zip(depths, STAGES.values(), sides, strict=True)
    )
    counted = macs(Denoiser(params, network, Discrete())) + elementwise
    assert counted / 1e9 == pytest.approx(giga, abs=rounding)


@pytest.mark.longer
def test_the_output_is_exactly_zero_at_initialisation():
    network, fresh = initialise(
        lambda rngs: DiCo(**TINY, scan_layers=True, rngs=rngs),
        jax.random.key(0),
        num_classes=3,
        shape=(8, 8, 2),
    )
    assert not np.any(run(network, fresh, *inputs()))
    assert np.abs(run(*make(), *inputs())).min() > 0


@pytest.mark.longer
def test_a_block_starts_as_the_identity():
    block = Block(8, mlp_ratio=2.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    np.testing.assert_array_equal(block(x, jnp.ones((1, 8))), x)


@pytest.mark.longer
def test_channel_attention_weighs_channels_by_their_means_between_0_and_1():
    attention = ChannelAttention(6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = 3 * jax.random.normal(jax.random.key(1), (2, 4, 4, 6))
    weights = attention(x)
    assert weights.shape == (2, 1, 1, 6) and (weights > 0).all() and (weights < 1).all()
    by_hand = x.mean(axis=(1, 2)) @ attention.linear.kernel[...]
    np.testing.assert_allclose(weights[:, 0, 0], 1 / (1 + np.exp(-by_hand)), atol=1e-6)
    np.testing.assert_allclose(attention(x[:, ::-1].swapaxes(1, 2)), weights, atol=1e-6)


def test_pixels_are_shuffled_as_torch_does_it():
    x = jnp.arange(2.0 * 2 * 2).reshape(1, 2, 2, 2)
    # One channel's four pixels, row by row, then the next channel's.
    np.testing.assert_array_equal(pixel_unshuffle(x)[0, 0, 0], [0, 2, 4, 6, 1, 3, 5, 7])
    many = jnp.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(pixel_shuffle(pixel_unshuffle(many)), many)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_published_names_load_to_the_published_numbers(scan_layers):
    golden = np.load(GOLDEN / "dico_tiny.npz")
    loaded = load(GOLDEN / "dico_tiny.pt", image_size=8, scan_layers=scan_layers)
    x = jnp.asarray(golden["x"].transpose(0, 2, 3, 1))
    output = run(loaded.network, loaded.params, x, golden["time"], golden["label"])
    expected = golden["output"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(output, expected, atol=2e-5 * np.abs(expected).max())
    assert loaded.spec.preconditioner == Discrete() and loaded.denoiser.null_condition == 3


@pytest.mark.longer
def test_the_published_names_are_of_every_parameter():
    _, params = make()
    entries = keys(depths=TINY["depths"], num_classes=3).values()
    assert sorted(entry.path for entry in entries) == sorted(flatten(params))


@pytest.mark.longer
def test_layers_scanned_or_not_are_the_same_to_a_mode():
    loop, params = make(depths=(3, 1, 2, 1, 1))
    scan, like = make(depths=(3, 1, 2, 1, 1), scan_layers=True)
    stacked = dict(params)
    for stage in STAGES:
        blocks = [params[stage][n] for n in sorted(params[stage])]
        stacked[stage] = jax.tree.map(lambda *a: jnp.stack(a), *blocks)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, like)
    modes = ((Doubled("block", (1, 4, 7)), jnp.array([True, False, True])),)
    looped, scanned = run(loop, params, *inputs(), modes), run(scan, stacked, *inputs(), modes)
    np.testing.assert_allclose(scanned, looped, atol=1e-4 * np.abs(looped).max())


@pytest.mark.longer
def test_modes_step_in_at_every_site_and_in_every_block():
    network, params = make()
    time, condition = Doubled("time_embedding"), Doubled("condition_embedding")
    features = [Doubled("h_space"), Doubled("skip", (0,)), Doubled("skip", (1,))]
    blocks = [Doubled("block", (layer,)) for layer in range(LAYERS)]
    modes = one_mode_a_sample([time, condition, *features, *blocks])
    x, step, label = inputs(1)
    same = [jnp.repeat(array, len(modes), axis=0) for array in (x, step + 30, label + 1)]
    plain, changed = run(network, params, *same), run(network, params, *same, modes)
    assert (np.abs(changed - plain).max(axis=(1, 2, 3)) > 1e-4).all()
    np.testing.assert_allclose(plain, np.broadcast_to(plain[:1], plain.shape), atol=1e-5)
    # The embeddings of all widths are one array there.
    assert time.seen[0][0].shape == (len(modes), 7 * 4)
    assert condition.seen[0][1].shape == (3, 7 * 4)
    assert {block.seen[0][0].shape[1:] for block in blocks} == {
        (8, 8, 4), (4, 4, 8), (2, 2, 16), (8, 8, 8)
    }  # fmt: skip


def test_features_are_read():
    network, params = make()
    x, _, label = inputs()

    @jax.jit
    def read(params):
        return features.read(Denoiser(params, network, Discrete()), x, 2.0, label)[1]

    found = jax.eval_shape(read, params)
    assert found["h_space"].shape == (3, 2, 2, 16)
    assert [one.shape for one in found["skip"]] == [(3, 8, 8, 4), (3, 4, 4, 8)]


@pytest.mark.longer
def test_samples_see_their_own_time_and_label_alone():
    network, params = make()
    x, time, label = (jnp.concatenate([array] * 4) for array in inputs())
    time = time.at[3:6].add(1.0)
    label = label.at[6:9].set((label[6:9] + 1) % 3).at[9:12].set(3)
    x = x.at[4:6].add(1.0)
    plain, moved, other, null = np.split(run(network, params, x, time, label), 4)
    for changed in (moved[:1], other, null):
        assert np.abs(changed - plain[: len(changed)]).max(axis=(1, 2, 3)).min() > 1e-4
    np.testing.assert_allclose(run(network, params, x[:3], time[:3], None), null, atol=1e-5)


@pytest.mark.longer
def test_bfloat16_stays_close_and_returns_float32():
    network, params = make()
    half, _ = make(dtype=jnp.bfloat16)
    exact, rounded = run(network, params, *inputs()), run(half, params, *inputs())
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.longer
def test_a_denoiser_takes_other_sizes_and_drops_the_variance():
    spec = builders.build(dict(name="dico", **TINY, learn_variance=True))
    network, params = filled(spec.build, num_classes=3, shape=spec.shape)
    assert spec.shape == (8, 8, 2) and spec.sigma_range == Discrete().sigma_range
    denoiser = Denoiser(params, network, spec.preconditioner)
    x, _, label = inputs(shape=(4, 12, 2))

    @jax.jit
    def both(denoiser):
        scaled = x / jnp.sqrt(1 + 4.0)
        time = spec.preconditioner.network_time(jnp.asarray(2.0))
        return denoiser(x, 2.0, label), denoiser.raw(scaled, time, label)

    denoised, raw = both(denoiser)
    assert raw.shape == (3, 4, 12, 4)
    np.testing.assert_allclose(denoised, x - 2.0 * raw[..., :2], atol=1e-5)


def test_no_classes_means_no_tables():
    network, params = make(num_classes=0)
    assert "label_tables" not in params and "condition_embedding" not in network.sites


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_size=6), "divisible by 4"),
        (dict(depths=(1, 1, 1)), "five numbers"),
        (dict(depths=(1, 1, 0, 1, 1)), "five numbers"),
        (dict(dtype="float8"), "dtype .float8. is not one of"),
        (dict(size="XXL"), "unknown DiCo size"),
    ],
)
def test_a_model_section_that_makes_no_network_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        builders.build(dict(name="dico") | TINY | changes)


@pytest.mark.parametrize(
    "shape", [(6, 8, 2), (8, 8, 3), (0, 8, 2), pytest.param((8, 8), marks=pytest.mark.untyped)]
)
def test_inputs_of_other_channels_or_indivisible_sizes_are_refused(shape):
    network, params = make()
    with pytest.raises(ValueError, match="takes 8x8x2 inputs, or others of 2 channels and sides"):
        network(params, jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (Doubled("attention", (0,)), "works on the 'attention'"),
        (Doubled("block", (LAYERS,)), "layer 6 of a network of depth 6"),
        (Doubled("skip", (2,)), "layer 2 of a network of depth 2"),
    ],
)
def test_modes_that_the_network_cannot_hold_are_refused(mode, message):
    network, params = make()
    with pytest.raises(ValueError, match=message):
        network(params, *inputs(), ((mode, None),))
