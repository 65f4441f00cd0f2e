"""Layers that preserve magnitudes: what they do to unit Gaussian inputs, weights and gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from guidestar.models.layers.magnitude import (
    SILU_GAIN,
    Fourier,
    MPConv,
    MPLinear,
    is_constant,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise,
    normalise_weights,
    pixel_norm,
    unit_kernel,
)

RNGS = nnx.Rngs(params=0)
CONV, LINEAR = MPConv(24, 48, 3, rngs=RNGS), MPLinear(96, 160, rngs=RNGS)
FOURIER = Fourier(512, rngs=RNGS)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


PRESERVING = {
    "pixel_norm": lambda: pixel_norm(7 * normal(64, 8, 8, 32)),
    "silu": lambda: mp_silu(normal(400_000)),
    "sum": lambda: mp_sum(normal(200_000), normal(200_000, seed=1), 0.3),
    "cat": lambda: mp_cat(normal(4000, 96), normal(4000, 32, seed=1), 0.5),
    "uneven cat": lambda: mp_cat(normal(4000, 96), normal(4000, 32, seed=1), 0.2),
    "fourier": lambda: FOURIER(normal(1000)),
    # A border of zeros takes from the magnitude of the pixels next to it.
    "conv": lambda: CONV(normal(16, 34, 34, 24))[:, 1:-1, 1:-1],
    "linear": lambda: LINEAR(normal(2000, 96)),
}


@pytest.mark.parametrize("name", PRESERVING)
def test_the_magnitude_of_unit_inputs_is_preserved(name):
    assert rms(PRESERVING[name]()) == pytest.approx(1.0, abs=0.02)


def test_normalising_divides_by_the_root_mean_square_over_the_axes():
    x = jnp.array([[3.0, 4.0], [0.6, 0.8]])
    np.testing.assert_allclose(normalise(x, 1), x / (np.array([[12.5], [0.5]]) ** 0.5 + 1e-4))
    np.testing.assert_allclose(normalise(x, (0, 1)), x / (6.5**0.5 + 1e-4), rtol=1e-6)
    assert normalise(x.astype(jnp.float16), 1).dtype == jnp.float16


def test_the_statistics_of_large_half_precision_numbers_do_not_overflow():
    x = jnp.full((1, 8), 3e4, jnp.float16)
    np.testing.assert_allclose(normalise(x, 1), 1, rtol=1e-3)


def test_zeros_stay_zeros_and_have_a_finite_gradient():
    assert not np.any(normalise(jnp.zeros((2, 4)), 1))
    gradient = jax.grad(lambda x: normalise(x, 1)[0, 0])(jnp.zeros((2, 4)))
    np.testing.assert_allclose(gradient[0, 0], 1e4, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_the_gain_of_silu_is_its_magnitude_over_unit_gaussians():
    x = np.linspace(-12, 12, 200_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    exact = math.sqrt(np.sum(density * (x / (1 + np.exp(-x))) ** 2) * (x[1] - x[0]))
    assert exact == pytest.approx(0.596469, abs=1e-6)
    assert abs(exact - SILU_GAIN) < 5e-4


def test_sum_and_concatenation_have_their_published_factors():
    a, b = jnp.array([[2.0]]), jnp.array([[1.0, -1.0, 3.0]])
    np.testing.assert_allclose(mp_sum(a, b, 0.3), (1.4 + 0.3 * b) / 0.58**0.5, rtol=1e-6)
    joined = mp_cat(a, b, 0.5)
    np.testing.assert_allclose(joined[:, :1], 2 * 8**0.5 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(joined[:, 1:], b * 8**0.5 * 0.5 / 3**0.5, rtol=1e-6)


@pytest.mark.parametrize("t", [0.5, 0.2])
def test_parts_contribute_as_asked_whatever_their_number_of_channels(t):
    joined = np.asarray(mp_cat(normal(4000, 96), normal(4000, 32, seed=1), t))
    first, second = np.sum(joined[:, :96] ** 2), np.sum(joined[:, 96:] ** 2)
    assert math.sqrt(second / first) == pytest.approx(t / (1 - t), rel=0.02)


def test_a_convolution_is_a_sum_over_neighbours_by_unit_weights():
    layer, x = MPConv(2, 3, 3, rngs=nnx.Rngs(1)), normal(1, 4, 5, 2)
    kernel = np.asarray(layer.kernel[...], np.float64)
    unit = kernel / np.sqrt(np.sum(kernel**2, axis=(0, 1, 2)))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row, column in ((0, 0), (1, 3), (3, 4)):
        around = padded[0, row : row + 3, column : column + 3]
        expected = np.einsum("hwi,hwio->o", around, unit)
        np.testing.assert_allclose(layer(x)[0, row, column], expected, rtol=1e-3, atol=1e-4)


def test_a_linear_layer_has_unit_weights_for_each_output_times_the_gain():
    matrix = LINEAR(jnp.eye(96))
    np.testing.assert_allclose(jnp.linalg.norm(matrix, axis=0), 1, rtol=1e-3)
    np.testing.assert_allclose(LINEAR(jnp.eye(96), 0.25), matrix / 4, rtol=1e-6)
    kernel = LINEAR.kernel[...]
    np.testing.assert_allclose(matrix / matrix[0], kernel / kernel[0], rtol=1e-4)


@pytest.mark.parametrize("layer", [CONV, LINEAR])
def test_the_norm_of_stored_weights_has_no_effect(layer):
    kernel = layer.kernel[...]
    plain, larger = unit_kernel(kernel), unit_kernel(7 * kernel)
    assert 0 < np.abs(larger - plain).max() / np.abs(plain).max() < 2e-4


@pytest.mark.parametrize("layer", [CONV, LINEAR])
def test_the_gradient_of_each_outputs_weights_is_orthogonal_to_them(layer):
    kernel, axes = layer.kernel[...], tuple(range(layer.kernel.ndim - 1))
    towards = normal(*kernel.shape)
    gradient = jax.grad(lambda kernel: jnp.sum(towards * unit_kernel(kernel)))(kernel)
    across = jnp.sum(gradient * kernel, axes)
    lengths = jnp.sqrt(jnp.sum(gradient**2, axes) * jnp.sum(kernel**2, axes))
    assert np.abs(across / lengths).max() < 1e-4
    assert lengths.min() > 0.1


def test_weights_are_scaled_before_they_are_cast():
    """Stored weights beyond float16, such as averages of unusual scale, act all the same."""
    kernel = 1e6 * LINEAR.kernel[...]
    half = unit_kernel(kernel, dtype=jnp.float16)
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, unit_kernel(kernel), rtol=1e-3, atol=1e-6)


def test_layers_compute_in_the_type_of_their_input():
    x = jnp.asarray(normal(1, 4, 4, 24), jnp.bfloat16)
    assert CONV(x).dtype == jnp.bfloat16
    assert LINEAR(jnp.ones((1, 96), jnp.float16)).dtype == jnp.float16


def test_features_are_cosines_of_stored_frequencies_and_phases():
    layer, x = Fourier(5, scale=1.0, rngs=nnx.Rngs(0)), normal(3)
    freqs, phases = (np.asarray(v[...], np.float64) for v in (layer.freqs, layer.phases))
    np.testing.assert_allclose(layer(x), np.cos(np.outer(x, freqs) + phases), atol=1e-5)
    doubled = Fourier(5, scale=2.0, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(doubled(x), 2 * layer(x), rtol=1e-6)
    assert rms(FOURIER.freqs[...]) == pytest.approx(2 * math.pi, rel=0.1)
    assert 0 <= FOURIER.phases[...].min() < FOURIER.phases[...].max() < 2 * math.pi


def test_constants_get_no_gradient_and_are_known_by_their_names():
    structure, params = nnx.split(Fourier(4, rngs=nnx.Rngs(0)))
    gradient = jax.grad(lambda p: jnp.sum(nnx.merge(structure, p)(normal(2))))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    paths = ("emb_fourier/freqs", "logvar_fourier/phases", "freqs", "enc/16x16_conv/kernel")
    assert [is_constant(path) for path in paths] == [True, True, True, False]


def test_projecting_sets_every_outputs_norm_and_leaves_the_rest():
    params = {
        "conv": {"kernel": 3 * normal(3, 3, 4, 6)},
        "linear": {"kernel": 0.2 * normal(50, 7)},
        "gain": jnp.array(2.0),
        "fourier": {"freqs": normal(9), "phases": normal(9)},
    }
    projected = normalise_weights(params)
    for name, fan_in in (("conv", 36), ("linear", 50)):
        kernel = projected[name]["kernel"]
        norms = np.sqrt(np.sum(np.square(kernel), axis=tuple(range(kernel.ndim - 1))))
        np.testing.assert_allclose(norms, math.sqrt(fan_in), rtol=1e-3)
        np.testing.assert_allclose(
            unit_kernel(kernel), unit_kernel(jnp.asarray(params[name]["kernel"])), atol=1e-3
        )
    for name in ("gain", "fourier"):
        assert jax.tree.all(jax.tree.map(np.array_equal, projected[name], params[name]))


@pytest.mark.longer
def test_an_average_of_weights_acts_with_norm_one():
    """It is shorter than what it is the average of."""
    average = (jnp.asarray(normal(64, 8)) + normal(64, 8, seed=1)) / 2
    assert jnp.linalg.norm(average, axis=0).max() < 0.85 * 8
    np.testing.assert_allclose(jnp.linalg.norm(unit_kernel(average), axis=0), 1, rtol=1e-3)
