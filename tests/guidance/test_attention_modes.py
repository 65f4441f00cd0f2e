"""Modes of self-attention: identity maps, blurred queries, a temperature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles.held_modes import BATCH, branch_of, held, permute

from guidestar.guidance.references import attention
from guidestar.models.transformers.dit import Attention


def tokens(batch=2, count=12, heads=2, features=4, seed=0):
    each = jax.random.split(jax.random.key(seed), 3)
    return tuple(jax.random.normal(key, (batch, count, heads, features)) for key in each)


@jax.jit(static_argnums=2)
def blurred(query, sigma, grid):
    """Return what the attention function is called with."""
    seen = []
    mode = attention.blurred_queries((0,), sigma).mode
    mode.attention(lambda q, k, v: seen.append(q) or v, query, query, query, grid)
    return seen[0]


@jax.jit(static_argnums=4)
def attend(mode, query, key, value, grid):
    """Return the attention that a mode makes of the plain one."""
    return mode.attention(jax.nn.dot_product_attention, query, key, value, grid)


blur = jax.jit(attention.blur, static_argnums=(0, 2))


@pytest.mark.longer
def test_with_identity_attention_a_token_depends_on_itself_alone_through_its_value():
    layer = Attention(8, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 6, 8))
    modes = held(branch_of("identity_attention"))

    @jax.jit(static_argnums=1)
    def jacobian(x, modes):
        return jax.jacobian(lambda x: layer(x, (2, 3), modes)[0])(x)[:, :, 0]

    slopes = np.asarray(jacobian(x, modes))
    value = layer.qkv.kernel[...][:, 16:] @ layer.proj.kernel[...]
    for to in range(6):
        for source in range(6):
            expected = value.T if to == source else np.zeros((8, 8))
            np.testing.assert_allclose(slopes[to, :, source], expected, atol=1e-6)
    assert np.abs(jacobian(x, ())[0, :, 1]).max() > 1e-3


@pytest.mark.longer
def test_a_single_token_is_left_alone():
    query, key, value = tokens(batch=BATCH, count=1)
    for name in ("identity_attention", "blurred_queries", "attention_temperature"):
        (mode,) = branch_of(name).modes
        np.testing.assert_allclose(attend(mode, query, key, value, (1, 1)), value, rtol=1e-6)
    mode, _ = branch_of("permuted_tokens").modes
    np.testing.assert_array_equal(permute(mode, value[:, :, 0]), value[:, :, 0])


def reflected_blur(values, sigma):
    """Blur the first axis by a kernel of odd size, with numpy's reflect padding."""
    count = math.ceil(6 * sigma)
    size = count + 1 - count % 2
    offsets = np.arange(size) - size // 2
    kernel = np.exp(-((offsets / sigma) ** 2) / 2)
    padded = np.pad(values, [(size // 2,) * 2] + [(0, 0)] * (values.ndim - 1), mode="reflect")
    return sum(
        weight * padded[k : k + len(values)] for k, weight in enumerate(kernel / kernel.sum())
    )


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 1.7, 3.0, 6.0])
@pytest.mark.parametrize("grid", [(3, 4), (6, 3)])
def test_a_finite_blur_is_the_padded_convolution(sigma, grid):
    query, _, _ = tokens(count=grid[0] * grid[1])
    for found, one in zip(blurred(query, sigma, grid), query, strict=True):
        image = np.asarray(one, np.float64).reshape(*grid, 2, 4)
        expected = reflected_blur(reflected_blur(image, sigma).swapaxes(0, 1), sigma)
        np.testing.assert_allclose(found, expected.swapaxes(0, 1).reshape(one.shape), atol=1e-5)


def test_no_blur_leaves_queries_and_an_infinite_one_leaves_their_mean():
    query, _, _ = tokens()
    for sigma in (0.0, 1e-30, 0.16):
        np.testing.assert_array_equal(blurred(query, sigma, (3, 4)), query)
    mean = jnp.broadcast_to(query.mean(axis=1, keepdims=True), query.shape)
    for sigma in (math.inf, 1e4):
        np.testing.assert_allclose(blurred(query, sigma, (3, 4)), mean, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 16])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 20.0, 9999.0, math.inf])
def test_blur_weights_are_positive_and_sum_to_one(length, sigma):
    weights = np.asarray(blur(length, sigma))
    assert weights.shape == (length, length) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_kernels_that_reach_over_many_reflections_are_flat_already():
    image = np.eye(5)
    for sigma in (20.0, 300.0):
        expected = reflected_blur(image, sigma)
        np.testing.assert_allclose(blur(5, sigma), expected, atol=0.01)


def test_a_blur_in_double_precision_is_exact(x64):
    expected = reflected_blur(np.eye(6), 1.3)
    np.testing.assert_allclose(blur(6, 1.3, jnp.float64), expected, atol=1e-14)
    assert blurred(tokens()[0].astype(jnp.float32), 1.3, (3, 4)).dtype == jnp.float32


def test_temperature_multiplies_the_logits():
    query, key, value = tokens()
    for temperature in (0.0, 0.5, 1.0):
        mode = attention.attention_temperature((0,), temperature).mode
        found = attend(mode, query, key, value, (3, 4))
        logits = temperature / 2 * jnp.einsum("bqhd,bkhd->bhqk", query, key)
        expected = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_lower_temperature_raises_the_entropy_of_attention():
    # With the identity as values, what attention gives is its map.
    query, key, value = tokens(count=4)
    value = jnp.broadcast_to(jnp.eye(4)[None, :, None], value.shape)

    entropies = []
    for temperature in (1.0, 0.5, 0.1, 0.0):
        mode = attention.attention_temperature((0,), temperature).mode
        weights = attend(mode, query, key, value, (2, 2))
        entropies.append(float(-(weights * jnp.log(weights)).sum(axis=-1).mean()))
    assert entropies == sorted(entropies) and entropies[-1] == pytest.approx(math.log(4), abs=1e-4)


def test_a_row_of_blurs_runs_as_one_vmapped_program():
    query, _, _ = tokens()
    row = jax.vmap(lambda sigma: blurred(query, sigma, (3, 4)))(jnp.array([0.5, jnp.inf]))
    for sigma, one in zip((0.5, math.inf), row, strict=True):
        np.testing.assert_allclose(one, blurred(query, sigma, (3, 4)), atol=1e-6)
