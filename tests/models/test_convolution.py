"""Convolutions with filters that were prepared are those of the kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar import guidance, models, samplers
from guidestar.models.layers import convolution

KEY = jax.random.key(0)
NETWORKS = {
    "uniform kernels and biases": dict(name="song_unet", channel_mult=(1,)),
    "normalised kernels": dict(name="edm2_unet", channel_mult=(1,), channels_per_head=32),
}
FIELDS = dict(image_size=16, channels=1, model_channels=32, num_blocks=1, attn_resolutions=())


def draw(*shape):
    return jax.random.normal(jax.random.fold_in(KEY, len(shape)), shape)


@pytest.mark.parametrize(
    "shape", [(1, 16, 16, 32), (2, 8, 32, 64), (4, 64, 64, 32), (3, 64, 32, 32)]
)
def test_tiles_give_the_convolution(shape, monkeypatch):
    x, kernel = draw(*shape), draw(3, 3, shape[3], 32)
    kernels = convolution.prepared(kernel)
    assert kernels.filters is not None and x[..., 0].size >= 4 * convolution.LEAST_TILES
    want = convolution.convolve(x, kernel)
    # That the tiles are taken, and not the kernel beside them.
    kernels = kernels._replace(kernel=jnp.full_like(kernel, jnp.nan))
    np.testing.assert_allclose(convolution.convolve(x, kernels), want, atol=1e-5 * want.std())


@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ((1, 15, 16, 32), 3, jnp.float32),
        ((1, 8, 8, 32), 3, jnp.float32),
        ((1, 16, 16, 8), 3, jnp.float32),
        ((1, 16, 16, 32), 1, jnp.float32),
        ((1, 16, 16, 32), 3, jnp.bfloat16),
    ],
)
def test_what_tiles_do_not_serve_takes_the_kernel(shape, size, dtype):
    x, kernel = draw(*shape).astype(dtype), draw(size, size, shape[3], 32)
    found = convolution.convolve(x, convolution.prepared(kernel))
    np.testing.assert_array_equal(found, convolution.convolve(x, kernel))
    assert found.dtype == dtype


def perturbed(params):
    """Return parameters none of which are zero, as trained ones are."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten([one + 0.05 * jax.random.normal(key, one.shape) for one, key in pairs])


@pytest.mark.longer
@pytest.mark.parametrize("network", NETWORKS)
def test_samples_of_a_prepared_network_are_those_of_the_network(network):
    spec = models.build(FIELDS | NETWORKS[network])
    denoise = spec.denoiser(perturbed(spec.initialise(KEY)))
    prepared = denoise.prepared()
    changed = [leaf for leaf in jax.tree.leaves(prepared.params) if leaf.shape[:1] == (16,)]
    assert any(leaf.shape == (16, 32, 32) for leaf in changed)
    noise, sigmas = draw(2, 16, 16, 1), samplers.karras(3)

    def run(network):
        rule = guidance.unguided()
        return samplers.sample(network, rule, samplers.euler(), sigmas, noise, None, KEY)

    want = run(denoise)
    np.testing.assert_allclose(run(prepared), want, atol=1e-5 * np.abs(want).max())
    assert np.abs(want).max() > 0.1
