"""The diffusion transformer: published sizes and numbers, the identity it starts as, its parts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.filled import initialise
from tables.everyday import few

from guidestar.core.macs import macs
from guidestar.models import DiT, builders
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.preconditioning import EDM
from guidestar.models.transformers.dit import sincos_positions, time_features

# Parameters of the published sizes, without the fixed position table.
PARAMETERS = {
    "S/8": 33_142_016, "S/4": 32_920_448, "S/2": 32_865_056,
    "B/8": 130_869_248, "B/4": 130_426_496, "B/2": 130_315_808,
    "L/8": 458_578_432, "L/4": 457_988_224, "L/2": 457_840_672,
    "XL/8": 675_664_640, "XL/4": 675_000_704, "XL/2": 674_834_720,
}  # fmt: skip
TINY = dict(image_size=8, channels=2, patch_size=2, width=32, depth=3, heads=4, num_classes=5)


@functools.cache
def make(seed=0, **changes):
    """Return a tiny network and parameters in which no layer is zero."""
    fields = TINY | changes

    def build(rngs):
        return DiT(**fields, rngs=rngs)

    shape = (fields["image_size"], fields["image_size"], fields["channels"])
    network, params = initialise(build, jax.random.key(seed), num_classes=5, shape=shape)
    keys = iter(jax.random.split(jax.random.key(seed + 1), len(jax.tree.leaves(params))))
    filled = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape), params)
    return network, params, filled


def inputs(count=3):
    x = jax.random.normal(jax.random.key(5), (count, 8, 8, 2))
    return x, jnp.linspace(-40.0, 100.0, count), jnp.arange(count) % 5


# Layers one by one are as many as scanned ones, and take long to build.
@pytest.mark.parametrize(
    ("name", "scan_layers"), [*((name, True) for name in PARAMETERS), ("S/2", False)]
)
def test_published_sizes_have_the_published_parameter_counts(name, scan_layers):
    abstract = nnx.eval_shape(
        lambda: DiT.from_name(name, scan_layers=scan_layers, rngs=nnx.Rngs(0))
    )
    _, params = split(abstract, num_classes=1000, shape=(32, 32, 4))
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(params)) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "giga"), [("S/8", 0.36), ("S/2", 6.06), ("B/4", 5.57), ("XL/2", 118.62)]
)
def test_published_sizes_cost_the_published_multiply_adds(name, giga):
    abstract = nnx.eval_shape(lambda: DiT.from_name(name, scan_layers=True, rngs=nnx.Rngs(0)))
    network, params = split(abstract, num_classes=1000, shape=(32, 32, 4))
    assert macs(Denoiser(params, network, EDM())) / 1e9 == pytest.approx(giga, abs=0.006)


@pytest.mark.longer
def test_the_output_is_exactly_zero_at_initialisation():
    network, fresh, filled = make()
    assert not np.any(network(fresh, *inputs()))
    assert np.abs(network(filled, *inputs())).min() > 0


def test_position_table_has_its_golden_values():
    table = sincos_positions(1152, 16, 16)
    assert table[1, [0, 288, 576, 864]] == pytest.approx([0.84147, 0.54030, 0, 1], abs=1e-5)
    assert table[16, [0, 576]] == pytest.approx([0, 0.84147], abs=1e-5)
    np.testing.assert_allclose((table**2).sum(axis=1), 576, rtol=1e-5)
    assert table.sum(dtype=np.float64) == pytest.approx(134598.948, abs=0.01)


def test_time_features_have_their_golden_values():
    features = time_features(jnp.array([500.0]))[0]
    golden = {0: -0.883849, 1: 0.945943, 127: 0.998557, 128: -0.467772, 129: 0.324334}
    for place, value in (golden | {255: 0.053705}).items():
        assert float(features[place]) == pytest.approx(value, abs=3e-5)


@pytest.mark.longer
def test_patches_are_put_back_where_they_came_from():
    model = DiT(**TINY, rngs=nnx.Rngs(0))
    x, _, _ = inputs()
    patches = model.patchify(x)
    np.testing.assert_array_equal(model.unpatchify(patches, (4, 4)), x)
    np.testing.assert_array_equal(patches[0, 1], x[0, 0:2, 2:4].reshape(-1))


def test_layers_scanned_or_not_compute_the_same():
    loop_network, _, loop_params = make()
    scan_network, fresh, _ = make(scan_layers=True)
    layers = [loop_params["blocks"][i] for i in range(TINY["depth"])]
    stacked = loop_params | {"blocks": jax.tree.map(lambda *a: jnp.stack(a), *layers)}
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, fresh)
    np.testing.assert_allclose(
        scan_network(stacked, *inputs()), loop_network(loop_params, *inputs()), atol=1e-5
    )


@pytest.mark.longer
def test_samples_of_a_batch_do_not_see_each_other():
    network, _, params = make()
    x, time, label = inputs()
    alone = network(params, x[1:2], time[1:2], label[1:2])
    np.testing.assert_allclose(network(params, x, time, label)[1:2], alone, atol=1e-5)


def test_time_and_label_each_change_the_output():
    network, _, params = make()
    x, time, label = inputs()
    plain = network(params, x, time, label)
    assert np.abs(network(params, x, time + 1, label) - plain).max() > 1e-4
    assert np.abs(network(params, x, time, (label + 1) % 5) - plain).max() > 1e-4


def test_no_label_is_the_last_row_of_the_table():
    network, _, params = make()
    x, time, _ = inputs()
    null = network(params, x, time, jnp.full(3, 5))
    np.testing.assert_array_equal(network(params, x, time, None), null)


@pytest.mark.longer
def test_bfloat16_stays_close_and_returns_float32():
    network, _, params = make()
    half, _, _ = make(dtype=jnp.bfloat16)
    exact, rounded = network(params, *inputs()), half(params, *inputs())
    assert rounded.dtype == jnp.float32
    scale = np.abs(exact).max()
    assert 0 < np.abs(rounded - exact).max() < 0.05 * scale


@pytest.mark.longer
def test_learned_variance_doubles_the_channels_and_no_classes_means_no_table():
    network, params, _ = make(learn_variance=True)
    assert network(params, *inputs()).shape == (3, 8, 8, 4)
    _, params, _ = make(num_classes=0)
    assert "label_table" not in params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patch_size=3), "not divisible by patch_size"),
        (dict(heads=5), "divisible by 4 and by heads"),
        (dict(width=30, heads=3), "divisible by 4"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "shape",
    [(7, 8, 2), (8, 5, 2), (8, 8, 3), (0, 8, 2), pytest.param((8, 8), marks=pytest.mark.untyped)],
)
def test_inputs_of_other_channels_or_indivisible_sizes_are_refused(shape):
    network, params, _ = make()
    with pytest.raises(ValueError, match="takes 8x8x2 inputs, or others of 2 channels and sides"):
        network(params, jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))


@pytest.mark.longer
@pytest.mark.parametrize("shape", few(1, zip([(4, 4), (12, 12), (4, 8)])))
def test_another_size_is_denoised_as_by_a_network_of_that_size(shape):
    network, _, params = make()
    _, time, label = inputs()
    x = jax.random.normal(jax.random.key(6), (3, *shape, 2))
    found = network(params, x, time, label)
    assert found.shape == x.shape
    if shape[0] == shape[1]:
        same, _, _ = make(image_size=shape[0])
        np.testing.assert_array_equal(found, same(params, x, time, label))
    else:
        # Rows and columns are told apart: a transposed input is not the transposed output.
        turned = network(params, x.transpose(0, 2, 1, 3), time, label)
        assert np.abs(turned.transpose(0, 2, 1, 3) - found).max() > 1e-3


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="unknown DiT size"):
        DiT.from_name("XXL/2", rngs=nnx.Rngs(0))


# The preconditioner and the denoiser around it.


def test_preconditioning_keeps_variances_at_one():
    sigma = jnp.array([0.01, 0.5, 3.0, 80.0])
    edm = EDM(0.5)
    skip, out, inside, noise = edm.coefficients(sigma)
    np.testing.assert_allclose(inside**2 * (sigma**2 + 0.25), 1, rtol=1e-5)
    # The network's target (x0 - c_skip x) / c_out has unit variance for data of variance 1/4.
    np.testing.assert_allclose(((1 - skip) ** 2 * 0.25 + skip**2 * sigma**2) / out**2, 1, rtol=1e-4)
    np.testing.assert_allclose(edm.loss_weight(sigma) * out**2, 1, rtol=1e-5)
    np.testing.assert_allclose(noise, jnp.log(sigma) / 4)


@pytest.mark.longer
def test_an_untrained_denoiser_returns_c_skip_x_and_has_loss_one():
    from guidestar.training.losses import Denoising
    from guidestar.training.losses.loss import Role
    from guidestar.training.noise.corruption import Corruption
    from guidestar.training.noise.levels import log_normal

    network, fresh, _ = make()
    preconditioner = EDM(0.5)
    x, _, label = inputs()
    denoise = Denoiser(fresh, network, preconditioner)
    np.testing.assert_allclose(denoise(x, 2.0, label), x * 0.25 / 4.25, rtol=1e-5)
    image = 0.5 * jax.random.normal(jax.random.key(0), (512, 8, 8, 2))
    batch = {"x": image, "condition": jnp.zeros(512, jnp.int32)}
    loss = Denoising(preconditioner, Corruption(log_normal()))
    roles = {"main": Role(network, fresh)}
    values, _ = loss(roles, batch, jax.random.split(jax.random.key(1), 512))
    assert float(values.mean()) == pytest.approx(1.0, abs=0.02)


def test_a_denoiser_takes_one_sigma_or_one_a_sample():
    network, _, params = make()
    x, _, label = inputs()
    denoise = Denoiser(params, network, EDM(0.5))
    one, each = denoise(x, 2.0, label), denoise(x, jnp.full(3, 2.0), label)
    np.testing.assert_array_equal(one, each)
    np.testing.assert_array_equal(denoise(x, 2.0, None), denoise(x, 2.0, jnp.full(3, 5)))
    assert denoise.null_condition == 5 and denoise.shape == (8, 8, 2)


def test_small_noise_is_left_to_the_input():
    network, _, params = make()
    x, _, label = inputs()
    denoised = Denoiser(params, network, EDM(0.5))(x, 1e-4, label)
    assert np.abs(denoised - x).max() < 1e-2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dict(name="dit", **TINY, depht=3), "depht"),
        (dict(name="dit", **TINY, dtype="float8"), "dtype .float8. is not one of"),
        (dict(name="unet"), "not one of .*; did you mean song_unet"),
    ],
)
def test_a_model_section_that_makes_no_model_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        builders.build(model)
