"""The toy's network: its layers, its score, and the loss that trains it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tables.loss_examples import mean_of

from guidestar.models.denoiser import split
from guidestar.models.exact.mixture import GaussianMixture
from guidestar.models.layers.magnitude import normalise_weights
from guidestar.models.mlps.score_mlp import ScoreMLP
from guidestar.training.losses import ScoreMatching
from guidestar.training.noise.levels import log_normal


def trained_looking(hidden=8, gain=0.7):
    module = ScoreMLP(hidden, rngs=nnx.Rngs(params=0))
    module.gain[...] = jnp.asarray(gain)
    return module


def mean_score_matching(mixture, mean=-2.3, std=1.5):
    """Return the loss and metrics of points, whose label no one looks at."""
    loss = ScoreMatching(mixture, log_normal(mean, std))

    def call(network, params, batch, keys):
        label = jnp.zeros(len(batch["x"]), jnp.int32)
        return mean_of(loss)(network, params, batch | {"condition": label}, keys)

    return call


def compiled(method):
    """One program instead of one an operation."""
    return jax.jit(lambda *arguments: method(*arguments))


def points(count=5, seed=1):
    return jnp.asarray(np.random.RandomState(seed).randn(count, 2), jnp.float32)


@pytest.mark.longer
@pytest.mark.parametrize(("hidden", "count"), [(64, 16_641), (32, 4_225)])
def test_has_five_linear_layers_and_one_gain(hidden, count):
    _, params = split(ScoreMLP(hidden, rngs=nnx.Rngs(params=0)), num_classes=0, shape=(2,))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.longer
def test_an_untrained_network_denoises_as_a_gaussian_of_sigma_data():
    module = ScoreMLP(8, rngs=nnx.Rngs(params=0))
    x, sigma = points(), 0.3
    np.testing.assert_allclose(compiled(module.score)(x, sigma), -x / (0.25 + sigma**2), rtol=1e-6)
    np.testing.assert_allclose(compiled(module)(x, sigma), x * 0.25 / (0.25 + sigma**2), rtol=1e-5)


@pytest.mark.longer
def test_log_density_is_the_formula_of_the_paper():
    module, x, sigma = trained_looking(), np.asarray(points(1)), 0.3
    scaled = x[0] / np.sqrt(0.25 + sigma**2)
    y = np.concatenate([scaled, [np.log(sigma) / 4, 1.0]])
    for index, layer in enumerate(module.layers):
        weight = np.asarray(layer.kernel[...], np.float64).T
        if index:
            y = y / (1 + np.exp(-y)) / 0.596
        y = weight @ y / np.linalg.norm(weight, axis=1)
    expected = np.mean(y**2) * 0.7 / sigma - 0.5 * np.sum(scaled**2)
    found = module.log_density(jnp.asarray(x), jnp.array([sigma]))
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_score_is_the_gradient_of_log_density():
    module, x, sigma = trained_looking(), points(1), jnp.array([0.5])
    steps = 1e-2 * jnp.eye(2)
    log_density = compiled(module.log_density)
    difference = [(log_density(x + h, sigma) - log_density(x - h, sigma))[0] / 2e-2 for h in steps]
    np.testing.assert_allclose(
        compiled(module.score)(x, sigma)[0], difference, rtol=5e-3, atol=1e-3
    )


def test_call_is_x_plus_sigma_squared_score_and_ignores_the_label():
    module, x = trained_looking(), points()
    sigma = jnp.linspace(0.1, 2.0, 5)
    expected = x + sigma[:, None] ** 2 * compiled(module.score)(x, sigma)
    np.testing.assert_allclose(compiled(module)(x, sigma, jnp.arange(5)), expected, rtol=1e-6)


@pytest.mark.longer
def test_a_sample_alone_equals_the_same_sample_in_a_batch():
    module, x = trained_looking(), points()
    sigma = jnp.linspace(0.1, 2.0, 5)
    np.testing.assert_allclose(
        compiled(module)(x, sigma)[2:3], compiled(module)(x[2:3], sigma[2:3]), rtol=1e-5
    )
    np.testing.assert_allclose(
        compiled(module)(x, 0.4), compiled(module)(x, jnp.full(5, 0.4)), rtol=1e-6
    )


def test_normalising_weights_keeps_the_function_and_sets_the_row_norms():
    network, params = split(trained_looking(), num_classes=0, shape=(2,))
    params["layers"][1]["kernel"] *= 3.0
    projected = normalise_weights(params)
    for layer in projected["layers"].values():
        norms = jnp.linalg.norm(layer["kernel"], axis=0)
        np.testing.assert_allclose(norms, np.sqrt(layer["kernel"].shape[0]), rtol=1e-3)
    assert projected["gain"] == params["gain"]
    x, sigma = points(), jnp.full(5, 0.4)
    before, after = (compiled(network)(p, x, sigma, None) for p in (params, projected))
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)


GAUSSIAN = GaussianMixture([1.0], np.zeros((1, 2)), [0.25 * np.eye(2)])


@pytest.mark.longer
def test_score_matching_is_zero_for_the_exact_score():
    """An untrained network's score is exact for a Gaussian of its sigma_data."""
    network, params = split(ScoreMLP(8, rngs=nnx.Rngs(params=0)), num_classes=0, shape=(2,))
    keys = jax.random.split(jax.random.key(0), 64)
    batch = {"x": GAUSSIAN.sample(jax.random.key(1), 64)}
    value, metrics = jax.jit(partial(mean_score_matching(GAUSSIAN), network))(params, batch, keys)
    assert float(value) < 1e-9
    assert metrics == {}


@pytest.mark.longer
def test_score_matching_weighs_the_squared_error_by_sigma_squared():
    """Against a wider Gaussian the error is linear in x, so its mean has a closed form."""
    network, params = split(ScoreMLP(8, rngs=nnx.Rngs(params=0)), num_classes=0, shape=(2,))
    wide = GaussianMixture([1.0], np.zeros((1, 2)), [np.eye(2)])
    count, sigma = 20_000, 0.5
    loss = mean_score_matching(wide, mean=float(np.log(sigma)), std=0.0)
    batch = {"x": wide.sample(jax.random.key(1), count)}
    keys = jax.random.split(jax.random.key(0), count)
    value, _ = jax.jit(partial(loss, network))(params, batch, keys)
    slope = 1 / (0.25 + sigma**2) - 1 / (1 + sigma**2)
    assert float(value) == pytest.approx(sigma**2 * slope**2 * (1 + sigma**2), rel=0.05)


@pytest.mark.longer
def test_score_matching_draws_log_normal_noise_levels():
    """With a point mass as data and an all-zero network score, the loss is E[noise^2] = 1."""
    seen = []

    class Recorder:
        def module(self, params):
            del params
            return self

        def score(self, x, sigma):
            seen.append(np.log(sigma))
            return jnp.zeros_like(x)

    point = GaussianMixture([1.0], np.zeros((1, 2)), np.zeros((1, 2, 2)))
    keys = jax.random.split(jax.random.key(0), 20_000)
    value, _ = mean_score_matching(point)(Recorder(), {}, {"x": jnp.zeros((20_000, 2))}, keys)
    assert float(value) == pytest.approx(1.0, abs=0.03)
    assert seen[0].mean() == pytest.approx(-2.3, abs=0.05)
    assert seen[0].std() == pytest.approx(1.5, abs=0.05)


@pytest.mark.longer
def test_training_lowers_the_loss():
    mixture = GaussianMixture([0.5, 0.5], [[-0.5, 0.0], [0.5, 0.0]], [0.01 * np.eye(2)] * 2)
    network, params = split(ScoreMLP(16, rngs=nnx.Rngs(params=0)), num_classes=0, shape=(2,))
    loss = mean_score_matching(mixture)
    batch = {"x": mixture.sample(jax.random.key(1), 256)}

    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, key):
        def objective(params):
            return loss(network, params, batch, jax.random.split(key, 256))[0]

        value, gradient = jax.value_and_grad(objective)(params)
        updates, state = optimizer.update(gradient, state, params)
        return normalise_weights(optax.apply_updates(params, updates)), state, value

    values, state = [], optimizer.init(params)
    for key in jax.random.split(jax.random.key(2), 100):
        params, state, value = step(params, state, key)
        values.append(float(value))
    assert np.mean(values[-10:]) < 0.7 * np.mean(values[:10])
