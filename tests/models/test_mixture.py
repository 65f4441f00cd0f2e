"""The exact mixture: closed forms, Tweedie's formula, and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tables.everyday import few

from guidestar.models.exact import mixture
from guidestar.models.exact.mixture import GaussianMixture


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def random_parameters(components, dim, seed=0):
    random = np.random.RandomState(seed)
    factors = random.randn(components, dim, dim) * 0.4
    covariances = factors @ np.swapaxes(factors, 1, 2) + 0.01 * np.eye(dim)
    return random.rand(components) + 0.1, random.randn(components, dim), covariances


def points(count, dim, seed=1):
    return jnp.asarray(np.random.RandomState(seed).randn(count, dim))


def sigma_for(kind, count):
    return 0.3 if kind == "scalar" else jnp.linspace(0.01, 3.0, count)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 80.0])
def test_one_component_is_the_gaussian_closed_form(sigma):
    _, mean, covariance = random_parameters(1, 3)
    single = GaussianMixture([2.0], mean, covariance)
    x = points(5, 3)
    total = covariance[0] + sigma**2 * np.eye(3)
    residual = np.asarray(x) - mean[0]
    density = stats.multivariate_normal(mean[0], total).logpdf(np.asarray(x))
    np.testing.assert_allclose(single.log_density(x, sigma), density, rtol=1e-10)
    pull = np.linalg.solve(total, residual.T).T
    np.testing.assert_allclose(single.score(x, sigma), -pull, rtol=1e-8, atol=1e-12)
    expected = mean[0] + residual @ np.linalg.solve(total, covariance[0])
    np.testing.assert_allclose(single.denoise(x, sigma), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", few(2, ["scalar", "per sample"]))
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_density_is_the_sum_over_components_and_score_its_gradient(dim, kind):
    weights, means, covariances = random_parameters(7, dim)
    many = GaussianMixture(weights, means, covariances)
    x, sigma = points(6, dim), sigma_for(kind, 6)
    density = [
        sum(
            w * stats.multivariate_normal(m, c + s**2 * np.eye(dim)).pdf(row)
            for w, m, c in zip(weights / weights.sum(), means, covariances, strict=True)
        )
        for row, s in zip(np.asarray(x), np.broadcast_to(sigma, 6), strict=True)
    ]
    np.testing.assert_allclose(many.log_density(x, sigma), np.log(density), rtol=1e-9)
    gradient = jax.grad(lambda x: many.log_density(x, sigma).sum())(x)
    np.testing.assert_allclose(many.score(x, sigma), gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "per sample"])
def test_denoise_is_x_plus_sigma_squared_score(kind):
    many = GaussianMixture(*random_parameters(7, 2))
    x, sigma = points(6, 2), sigma_for(kind, 6)
    squared = jnp.broadcast_to(jnp.asarray(sigma), (6,))[:, None] ** 2
    np.testing.assert_allclose(many.denoise(x, sigma), x + squared * many.score(x, sigma))


def test_denoisers_of_the_classes_average_to_the_unconditional_one():
    weights, means, covariances = random_parameters(8, 2)
    halves = [slice(0, 3), slice(3, 8)]
    whole = GaussianMixture(weights, means, covariances)
    parts = [GaussianMixture(weights[h], means[h], covariances[h]) for h in halves]
    priors = [weights[h].sum() / weights.sum() for h in halves]
    x, sigma = points(6, 2), 0.4
    posterior = [
        p * jnp.exp(part.log_density(x, sigma) - whole.log_density(x, sigma))
        for p, part in zip(priors, parts, strict=True)
    ]
    np.testing.assert_allclose(sum(posterior), 1.0, rtol=1e-10)
    average = sum(
        p[:, None] * part.denoise(x, sigma) for p, part in zip(posterior, parts, strict=True)
    )
    np.testing.assert_allclose(whole.denoise(x, sigma), average, rtol=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 80.0])
@pytest.mark.parametrize("distance", [0.0, 1e4])
def test_everything_is_finite_in_float32_at_extremes(sigma, distance):
    many = GaussianMixture(*random_parameters(7, 2))
    x = points(6, 2).astype(jnp.float32) + jnp.float32(distance)
    for value in (many.log_density(x, sigma), many.score(x, sigma), many.denoise(x, sigma)):
        assert value.dtype == jnp.float32
        assert jnp.isfinite(value).all()


def test_point_masses_give_the_softmax_weighted_mean_of_the_data():
    data = np.random.RandomState(3).randn(5, 2)
    empirical = GaussianMixture(np.ones(5), data, np.zeros((5, 2, 2)))
    x = points(4, 2)
    distance = np.sum((np.asarray(x)[:, None] - data) ** 2, axis=-1)
    expected = jax.nn.softmax(-distance / (2 * 0.7**2), axis=1) @ data
    np.testing.assert_allclose(empirical.denoise(x, 0.7), expected, rtol=1e-9)


@pytest.mark.longer
@pytest.mark.parametrize("kind", ["scalar", "per sample"])
def test_a_batch_evaluated_in_blocks_gives_what_its_rows_give_alone(kind):
    many = GaussianMixture(*random_parameters(64, 2))
    count = 2 * mixture.BLOCK_ELEMENTS // many.means.size + 5
    x, sigma = points(count, 2), jnp.asarray(sigma_for(kind, count))
    chosen = jnp.array([0, 1, 2, count // 2, count - 1])
    alone = sigma if kind == "scalar" else sigma[chosen]
    for method in (many.log_density, many.score, many.component):
        np.testing.assert_allclose(method(x, sigma)[chosen], method(x[chosen], alone), rtol=1e-9)


def test_component_is_the_most_responsible_one():
    weights, means, covariances = [0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], [np.eye(2)] * 2
    two = GaussianMixture(weights, means, covariances)
    np.testing.assert_array_equal(two.component(jnp.array([[0.4, 3.0], [0.6, -3.0]])), [0, 1])
    heavier = GaussianMixture([0.1, 0.9], means, covariances)
    np.testing.assert_array_equal(heavier.component(jnp.array([[0.4, 3.0]])), [1])


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_samples_have_the_mixture_s_moments(sigma):
    weights, means, covariances = random_parameters(4, 2)
    weights = weights / weights.sum()
    count = 40_000
    x = GaussianMixture(weights, means, covariances).sample(jax.random.key(0), count, sigma)
    mean = weights @ means
    spread = means - mean
    covariance = np.einsum("k,kij->ij", weights, covariances) + spread.T @ (
        weights[:, None] * spread
    )
    covariance += sigma**2 * np.eye(2)
    error = np.sqrt(covariance.max() / count)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=5 * error)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=8 * error * np.sqrt(covariance.max()))


def test_components_are_drawn_in_proportion_to_their_weights():
    weights = np.array([0.2, 0.05, 0.75])
    three = GaussianMixture(weights, [[0.0], [1.0], [2.0]], np.zeros((3, 1, 1)))
    x, component = three.draw(jax.random.split(jax.random.key(1), 20_000))
    np.testing.assert_array_equal(x[:, 0], component)
    np.testing.assert_allclose(np.bincount(component, minlength=3) / 20_000, weights, atol=0.015)


def test_a_sample_depends_on_its_index_and_not_on_the_count():
    many = GaussianMixture(*random_parameters(4, 2))
    few, more = (many.sample(jax.random.key(0), count) for count in (3, 9))
    np.testing.assert_array_equal(few, more[:3])


def test_passes_through_jit_and_vmap_as_a_pytree():
    parameters = random_parameters(4, 2)
    many = GaussianMixture(*parameters)
    x = points(6, 2)
    passed = jax.jit(lambda m, x: m.score(x, 0.3))(many, x)
    np.testing.assert_allclose(passed, many.score(x, 0.3), rtol=1e-12)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), many)
    scores = jax.vmap(lambda m: m.score(x, 0.3))(stacked)
    np.testing.assert_allclose(scores[1], passed, rtol=1e-12)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        ([1.0, 1.0], np.zeros((3, 2)), np.zeros((3, 2, 2)), "give \\[K\\] and \\[K, d\\]"),
        ([1.0], np.zeros((1, 2)), np.zeros((1, 3, 3)), "\\(1, 2, 2\\)"),
        ([0.0], np.zeros((1, 1)), np.ones((1, 1, 1)), "leave empty components out"),
        ([1.0], np.zeros((1, 2)), [[[1.0, 0.5], [0.0, 1.0]]], "symmetric"),
        ([1.0], np.zeros((1, 1)), [[[-1.0]]], "component 0 has eigenvalue -1"),
    ],
)
def test_impossible_parameters_are_refused(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, covariances)


def test_points_and_sigmas_of_another_shape_are_refused():
    many = GaussianMixture(*random_parameters(4, 2))
    with pytest.raises(ValueError, match="give \\[batch, 2\\]"):
        many.log_density(jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match="give a scalar or \\(5,\\)"):
        many.score(jnp.zeros((5, 2)), jnp.ones(4))
