"""The fractal toy against the published recipe's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar.data.sources import fractal2d


def covariances(mixture):
    vectors = np.asarray(mixture.eigenvectors)
    return np.einsum("kij,kj,klj->kil", vectors, np.asarray(mixture.eigenvalues), vectors)


def moments(mixture):
    weights, means = np.exp(mixture.log_weights), np.asarray(mixture.means)
    mean = weights @ means
    spread = means - mean
    within = np.einsum("k,kij->ij", weights, covariances(mixture))
    return mean, within + spread.T @ (weights[:, None] * spread)


@pytest.mark.parametrize(
    ("classes", "components", "mean", "covariance"),
    [
        ("A", 1016, (0.37185, 0.36461), (0.11093, -0.01639, 0.11661)),
        ("B", 1016, (-0.33943, -0.33147), (0.13524, -0.05234, 0.14034)),
        ("AB", 2032, (-0.00014, 0.00057), (0.24985, 0.08832, 0.24990)),
    ],
)
def test_moments_are_the_published_recipe_s(classes, components, mean, covariance):
    mixture = fractal2d.mixture(classes)
    found_mean, found = moments(mixture)
    assert len(mixture.means) == components
    np.testing.assert_allclose(found_mean, mean, atol=6e-6)
    np.testing.assert_allclose((found[0, 0], found[0, 1], found[1, 1]), covariance, atol=6e-6)
    np.testing.assert_allclose(np.exp(mixture.log_weights).sum(), 1, rtol=1e-5)


def test_data_of_both_classes_have_standard_deviation_one_half():
    _, covariance = moments(fractal2d.mixture())
    deviations = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(deviations, fractal2d.SIGMA_DATA, rtol=1e-3)


def test_first_components_are_the_published_recipe_s():
    mixture = fractal2d.mixture("A")
    np.testing.assert_allclose(mixture.means[0], (0.02134411, 0.06333431), rtol=1e-6)
    np.testing.assert_allclose(mixture.means[8], (0.25007493, 0.31971051), rtol=1e-6)
    np.testing.assert_allclose(np.exp(mixture.log_weights[0]), 0.03214954, rtol=1e-5)
    first = covariances(mixture)[0]
    expected = (3.4676e-4, 1.0358e-4, 3.8515e-4)
    np.testing.assert_allclose((first[0, 0], first[0, 1], first[1, 1]), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("x", "sigma", "log_density", "score"),
    [
        ((0.3, 0.3), 0.0, 2.06937, (-25.6188, -59.4682)),
        ((0.3, 0.3), 0.1, 0.93046, (-3.37716, -1.17039)),
        ((0.3, 0.3), 0.5, -0.81428, (0.05582, 0.09086)),
        ((0.3, 0.3), 5.0, -5.06148, (0.00284, 0.00256)),
        ((0.45, 1.22), 0.1, -1.32722, (-0.50547, -3.22266)),
        ((0.45, 1.22), 0.5, -1.86927, (-0.27891, -2.17376)),
        ((0.0, 0.0), 0.0, -2.55508, None),
        ((0.0, 0.0), 0.5, -1.14102, (0.9891, 1.07014)),
    ],
)
def test_density_and_score_of_class_a_are_the_published_recipe_s(x, sigma, log_density, score):
    mixture, x = fractal2d.mixture("A"), jnp.array([x])
    np.testing.assert_allclose(mixture.log_density(x, sigma)[0], log_density, rtol=1e-5)
    if score is not None:
        # Half a unit of the last digit that was published, beside the relative tolerance.
        np.testing.assert_allclose(mixture.score(x, sigma)[0], score, rtol=1e-5, atol=6e-6)


@pytest.mark.longer
def test_samples_carry_the_class_they_came_from():
    points, label = fractal2d.sample(jax.random.key(0), 2000)
    assert points.shape == (2000, 2)
    assert label.dtype == jnp.int32
    assert abs(float(label.mean()) - 0.5) < 0.05
    likelier_b = fractal2d.mixture("B").log_density(points) > fractal2d.mixture("A").log_density(
        points
    )
    assert float(jnp.mean(likelier_b == (label == 1))) > 0.98


@pytest.mark.parametrize(("classes", "expected"), [("A", 0), (("B",), 1)])
def test_samples_of_one_class_carry_its_label(classes, expected):
    _, label = fractal2d.sample(jax.random.key(0), 50, classes)
    assert set(np.asarray(label)) == {expected}


@pytest.mark.parametrize("classes", [("A",), ("B",), ("A", "B")])
def test_no_point_near_the_peak_is_denser(classes):
    mixture = fractal2d.mixture(classes)
    top = mixture.means[mixture.log_density(mixture.means).argmax()]
    step = jnp.linspace(-0.02, 0.02, 41)
    around = top + jnp.stack(jnp.meshgrid(step, step), axis=-1).reshape(-1, 2)
    samples = mixture.sample(jax.random.key(0), 2000)
    for points in (around, samples):
        assert float(mixture.log_density(points).max()) <= fractal2d.peak(classes) + 1e-5
    assert float(mixture.log_density(samples).max()) > fractal2d.peak(classes) - 0.1


def test_outside_is_below_the_outline_level():
    log_density = fractal2d.mixture("A").log_density(
        fractal2d.mixture("A").sample(jax.random.key(0), 4000)
    )
    outside = fractal2d.outside(log_density)
    level = -np.sqrt(np.maximum(fractal2d.peak() - np.asarray(log_density), 0))
    np.testing.assert_array_equal(outside, level < -2.12)
    assert 0.005 < float(outside.mean()) < 0.03


@pytest.mark.parametrize("classes", [(), ("C",), ("A", "A")])
def test_impossible_classes_are_refused(classes):
    with pytest.raises(ValueError, match="name A, B or both"):
        fractal2d.mixture(classes)
