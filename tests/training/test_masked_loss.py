"""UMD's mixture: a masked autoencoder at one end, plain diffusion at the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.filled import initialise
from tables.loss_examples import images, keys, only

from guidestar.core.random import fold_each
from guidestar.models import builders
from guidestar.models import preconditioning as p
from guidestar.models.transformers.umd import draw_visible
from guidestar.training.losses import Denoising, Masked
from guidestar.training.losses.masked import MASK
from guidestar.training.noise.corruption import Corruption
from guidestar.training.noise.levels import discrete
from guidestar.training.noise.perturbation import ConditionPerturbation

CORRUPTION = Corruption(discrete())
COUNT = 6


@pytest.fixture(scope="module")
def umd():
    """Return a tiny network with noise in every parameter, and its preconditioner."""
    spec = builders.build(
        dict(name="umd", image_size=4, channels=2, patch_size=1, num_classes=3)
        | dict(width=8, depth=1, decoder_depth=1, heads=2)
    )
    network, params = initialise(spec.build, jax.random.key(0), num_classes=3, shape=spec.shape)
    leaves, structure = jax.tree.flatten(params)
    fresh = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, fresh, strict=True)]
    return network, structure.unflatten(moved), spec.preconditioner


def values_of(loss, network, params):
    return jax.jit(lambda q: loss(only(network, q), images(COUNT), keys(COUNT)))(params)


@pytest.mark.longer
def test_without_noise_it_is_the_masked_autoencoder(umd):
    network, params, preconditioner = umd
    values, metrics = values_of(
        Masked(preconditioner, CORRUPTION, clean_share=1.0), network, params
    )
    image, module = images(COUNT)["x"], network.module(params)
    visible = draw_visible(fold_each(keys(COUNT), MASK), 16, 0.75)
    assert visible.shape == (COUNT, 4)
    time = jnp.full(COUNT, module.clean_time)
    output = network(params, image, time, jnp.full(COUNT, 3), visible=visible)
    hidden = np.ones((COUNT, 16), bool)
    np.put_along_axis(hidden, np.asarray(visible), False, axis=1)
    error = np.asarray((output[..., 2:] - image) ** 2).reshape(COUNT, 16, 2)
    expected = [error[i][hidden[i]].mean() for i in range(COUNT)]
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert set(metrics) == {"autoencoding_error"}


@pytest.mark.longer
def test_without_a_mask_and_clean_samples_it_is_plain_diffusion_and_an_x0_head(umd):
    network, params, preconditioner = umd
    values, metrics = values_of(
        Masked(preconditioner, CORRUPTION, clean_share=0.0, mask=0.0), network, params
    )
    plain, _ = values_of(Denoising(preconditioner, CORRUPTION), network, params)
    np.testing.assert_allclose(metrics["denoising_error"], plain, rtol=1e-4)
    np.testing.assert_allclose(values, (plain + metrics["pixel_error"]) / 2, rtol=1e-5)


@pytest.mark.longer
def test_noise_is_predicted_where_it_is_seen_and_pixels_where_they_are_not(umd):
    network, params, preconditioner = umd
    loss = Masked(preconditioner, CORRUPTION, clean_share=0.0)
    values, metrics = values_of(loss, network, params)
    given = CORRUPTION(network, images(COUNT), keys(COUNT))
    visible = draw_visible(fold_each(keys(COUNT), MASK), 16, 0.375)
    seen = np.zeros((COUNT, 16), bool)
    np.put_along_axis(seen, np.asarray(visible), True, axis=1)
    _, _, inside, time = preconditioner.coefficients(given.column)
    output = network(
        params, inside * given.noisy, time.reshape(-1), given.condition, visible=visible
    )
    noise = np.asarray((output[..., :2] - given.noise) ** 2).reshape(COUNT, 16, 2)
    pixels = np.asarray((output[..., 2:] - given.clean) ** 2).reshape(COUNT, 16, 2)
    errors = [
        [noise[i][seen[i]].mean() for i in range(COUNT)],
        [pixels[i][~seen[i]].mean() for i in range(COUNT)],
    ]
    np.testing.assert_allclose(metrics["denoising_error"], errors[0], rtol=1e-3)
    np.testing.assert_allclose(metrics["pixel_error"], errors[1], rtol=1e-3)
    np.testing.assert_allclose(values, np.mean(errors, axis=0), rtol=1e-3)


@pytest.mark.longer
def test_half_a_batch_is_clean_and_the_mean_weighs_both_parts_by_their_share(umd):
    network, params, preconditioner = umd
    values, metrics = values_of(Masked(preconditioner, CORRUPTION), network, params)
    assert metrics["autoencoding_error"].shape == metrics["pixel_error"].shape == (3,)
    noisy = (metrics["denoising_error"] + metrics["pixel_error"]) / 2
    expected = (metrics["autoencoding_error"].mean() + noisy.mean()) / 2
    assert float(values.mean()) == pytest.approx(float(expected), rel=1e-5)
    whole, _ = values_of(Masked(preconditioner, CORRUPTION, clean_share=1.0), network, params)
    np.testing.assert_allclose(values[1::2], whole[1::2], rtol=1e-4)


@pytest.mark.parametrize(("share", "clean"), [(0.5, 3), (0.34, 2), (0.05, 0), (1.0, 6)])
def test_as_many_samples_are_clean_as_the_share_says(umd, share, clean):
    network, params, preconditioner = umd
    loss = Masked(preconditioner, CORRUPTION, clean_share=share)
    metrics = jax.eval_shape(lambda q: loss(only(network, q), images(COUNT), keys(COUNT)), params)[
        1
    ]
    found = metrics.get("autoencoding_error", jnp.zeros(0)).shape[0]
    assert found == clean


@pytest.mark.longer
def test_every_parameter_is_trained(umd):
    network, params, preconditioner = umd
    loss = Masked(preconditioner, CORRUPTION)
    gradient = jax.jit(
        jax.grad(lambda q: loss(only(network, q), images(COUNT), keys(COUNT))[0].mean())
    )(params)
    flat = jax.tree_util.tree_leaves_with_path(gradient)
    dead = [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max()]
    # A bias of keys changes no attention.
    assert all("key" in name and "bias" in name for name in dead), dead


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clean_share": 1.5}, r"lies in \[0, 1\]"),
        ({"mask": 1.0}, r"mask 1.0 in \[0, 1\)"),
        ({"clean_mask": 0.0}, "what is not hidden is known"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Masked(p.Discrete(), CORRUPTION, **fields)


def test_perturbed_conditions_under_a_mask_are_refused():
    corruption = Corruption(discrete(), perturbation=ConditionPerturbation())
    with pytest.raises(ValueError, match="where mask is 0 alone"):
        Masked(p.Discrete(), corruption)
