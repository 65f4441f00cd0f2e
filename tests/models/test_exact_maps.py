"""Exact maps of the flow, with and without guidance, and where few-step objectives end on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.few_step import (
    cd_fixed_point,
    ct_fixed_point,
    euler_product,
    heun_product,
    line,
    nodes,
    one_step_law,
)
from scipy.integrate import solve_ivp

from guidestar.models.exact import GaussianMixture, gaussian, mixture_1d


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


X = np.linspace(-3.0, 3.0, 13)
DATA = {
    "gaussian": (lambda: gaussian(0.4, 0.5), lambda: gaussian(-0.3, 1.1)),
    "mixture": (line, lambda: mixture_1d((0.5, 0.5), (-1.0, 0.6), (0.4, 0.5))),
}


def integrated(denoise, x, sigma, to):
    """Return the end of ``dx/dsigma = (x - D)/sigma``, by a solver of high order."""

    def slope(log_sigma, x):
        return x - np.asarray(denoise(jnp.asarray(x), np.exp(log_sigma)))

    span = np.log(sigma), np.log(to)
    return solve_ivp(slope, span, x, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]


@pytest.mark.parametrize("name", DATA)
class TestMaps:
    """Of both kinds of data."""

    def test_the_flow_map_is_the_integrated_flow(self, name):
        data = DATA[name][0]()
        expected = integrated(data.denoise, X * 2, 2.0, 0.05)
        np.testing.assert_allclose(data.flow_map(X * 2, 2.0, 0.05), expected, atol=1e-8)

    @pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
    def test_the_guided_map_is_the_integrated_guided_flow(self, name, scale):
        data, reference = (make() for make in DATA[name])
        given = dict(reference=reference, scale=scale)

        def denoise(x, sigma):
            return data.guided_denoise(x, sigma, **given)

        expected = integrated(denoise, X * 2, 2.0, 0.05)
        found = data.guided_flow_map(X * 2, 2.0, 0.05, **given)
        np.testing.assert_allclose(found, expected, atol=1e-7)

    @pytest.mark.longer
    def test_guidance_at_0_and_1_is_the_reference_and_the_plain_map(self, name):
        data, reference = (make() for make in DATA[name])
        for scale, plain in ((0.0, reference), (1.0, data)):
            found = data.guided_flow_map(X * 9, 80.0, 0.0, reference=reference, scale=scale)
            np.testing.assert_allclose(found, plain.flow_map(X * 9, 80.0, 0.0), atol=2e-6)

    @pytest.mark.longer
    def test_maps_compose(self, name):
        data = DATA[name][0]()
        halfway = data.flow_map(data.flow_map(80 * X, 80.0, 1.0), 1.0, 0.01)
        np.testing.assert_allclose(halfway, data.flow_map(80 * X, 80.0, 0.01), atol=1e-9)
        np.testing.assert_allclose(data.flow_map(X, 0.7, 0.7), X, atol=1e-12)
        np.testing.assert_allclose(
            data.consistency(X, 1.0, 0.002), data.flow_map(X, 1.0, 0.002), atol=1e-12
        )

    @pytest.mark.longer
    def test_the_map_moves_by_the_field_and_its_inverse_tangent(self, name):
        """d/dto is the field at the end; along the flow the start's movement changes nothing."""
        data, x = DATA[name][0](), jnp.asarray(X)
        one = jnp.ones_like(x)
        end, by_end = jax.jvp(lambda to: data.flow_map(x, 1.3 * one, to), (0.4 * one,), (one,))
        np.testing.assert_allclose(by_end, (end - data.denoise(end, 0.4)) / 0.4, rtol=1e-7)
        field = (x - data.denoise(x, 1.3)) / 1.3
        _, along = jax.jvp(lambda x, s: data.flow_map(x, s, 0.4), (x, 1.3 * one), (field, one))
        np.testing.assert_allclose(along, 0, atol=1e-9)

    @pytest.mark.longer
    def test_levels_and_scales_may_be_one_a_sample(self, name):
        data, reference = (make() for make in DATA[name])
        x = jnp.asarray(X.reshape(13, 1) * [[1.0, 2.0]])
        sigma, to, scale = (jnp.linspace(a, b, 13) for a, b in ((1, 3), (0.1, 0.9), (0, 3)))
        whole = data.guided_flow_map(x, sigma, to, reference=reference, scale=scale)
        one = data.guided_flow_map(x[4:5], sigma[4], to[4], reference=reference, scale=scale[4])
        np.testing.assert_allclose(whole[4:5], one, rtol=1e-10)

    @pytest.mark.longer
    def test_single_precision_keeps_its_type_and_stays_finite_far_out(self, name):
        data, reference = (make() for make in DATA[name])
        x = jnp.asarray([-6.0, 0.0, 6.0], jnp.float32) * 80
        for found in (
            data.flow_map(x, 80.0, 0.0),
            data.guided_flow_map(x, 80.0, 0.0, reference=reference, scale=3.0),
        ):
            assert found.dtype == jnp.float32 and np.isfinite(found).all()


class TestGuidedGaussians:
    """Closed forms."""

    @pytest.mark.parametrize("scale", [1.5, 2.0, 3.0])
    def test_equal_variances_move_the_mean_alone(self, scale):
        mean, std = 0.8, 0.6
        main, reference = gaussian(mean, std), gaussian(0.0, std)
        found = main.guided_flow_map(X * 5, 5.0, 0.0, reference=reference, scale=scale)
        ratio = std / np.sqrt(std**2 + 25)
        np.testing.assert_allclose(found, scale * mean + ratio * (X * 5 - scale * mean), rtol=1e-9)
        # The same samples as without guidance, from other noise.
        shifted = X * 5 + (scale - 1) * mean * (1 - ratio) / ratio
        np.testing.assert_allclose(found, main.consistency(shifted, 5.0), rtol=1e-9)

    @pytest.mark.parametrize(("scale", "variance"), [(1.5, 0.125), (2.0, 0.0625), (3.0, 0.015625)])
    def test_centred_ones_end_at_the_geometric_mean_of_the_variances(self, scale, variance):
        main, reference = gaussian(0.0, 0.5), gaussian(0.0, 1.0)
        found = main.guided_flow_map(1e4, 1e4, 0.0, reference=reference, scale=scale)
        assert float(found) ** 2 == pytest.approx(variance, rel=1e-6)


def test_the_mixture_is_the_one_of_any_dimension():
    data = line()
    other = GaussianMixture(data.weights, data.means[:, None], (data.stds**2)[:, None, None])
    for sigma in (0.1, 1.0, 80.0):
        found = data.denoise(X, sigma)
        np.testing.assert_allclose(found, other.denoise(X[:, None], sigma)[:, 0], atol=1e-10)
    density = other.log_density(X[:, None], 0.3)
    np.testing.assert_allclose(data.log_density(X, 0.3), density, rtol=1e-10)
    step = 1e-5
    slope = (np.exp(data.log_cdf(X + step, 0.3)) - np.exp(data.log_cdf(X - step, 0.3))) / 2 / step
    np.testing.assert_allclose(slope, np.exp(density), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: gaussian(0.0, -1.0), "std"),
        (lambda: gaussian(np.nan, 1.0), "mean"),
        (lambda: mixture_1d((1.0,), (0.0, 1.0), (1.0,)), "component"),
        (lambda: mixture_1d((1.0,), (0.0,), (0.0,)), "above 0"),
        (lambda: mixture_1d((1.0,), (np.inf,), (1.0,)), "finite"),
    ],
)
def test_what_is_no_density_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


# Standard deviations of one-step students over the exact one, data of std 1/2, from sigma 80 on
# so many nodes of Karras' schedule.
PRODUCTS = {
    2: (0.0103, 80.0),
    3: (0.1953, 4.09),
    5: (0.4673, 2.516),
    9: (0.6990, 1.278),
    11: (0.7528, 1.1746),
    18: (0.8461, 1.0553),
    21: (0.8676, 1.0392),
    40: (0.9297, 1.0098),
    41: (0.9314, 1.0093),
    81: (0.9651, 1.0023),
    161: (0.9824, 1.0006),
    201: (0.9859, 1.0004),
    321: (0.9912, 1.0001),
    641: (0.9956, 1.0000),
    1281: (0.9978, 1.0000),
}


@pytest.mark.parametrize("count", PRODUCTS)
def test_discrete_consistency_of_gaussian_data_ends_at_a_solvers_product(count):
    levels = nodes(count)
    exact = float(gaussian(0.0, 0.5).consistency(1.0, 80.0, 0.002))
    euler, heun = PRODUCTS[count]
    assert euler_product(0.5, levels) / exact == pytest.approx(euler, abs=6e-5)
    assert heun_product(0.5, levels) / exact == pytest.approx(heun, rel=1.2e-3)


# Nodes -> (std, distance W1 to the exact law) of CT with a squared error, CD by Euler and by Heun.
ENDS = {
    11: ((0.5372, 0.2605), (0.6456, 0.1200), (0.8452, 0.0769)),
    18: ((0.6152, 0.1863), (0.6967, 0.0713), (0.7880, 0.0199)),
    21: ((0.6326, 0.1689), (0.7075, 0.0605), (0.7815, 0.0138)),
    41: ((0.6872, 0.1108), (0.7376, 0.0301), (0.7702, 0.0032)),
    81: ((0.7194, 0.0727), (0.7524, 0.0150), (0.7678, 0.0010)),
    161: ((0.7384, 0.0477), (0.7597, 0.0075), (0.7672, 0.0006)),
}
MEDIANS = {11: (0.591, 0.2742), 18: (0.626, 0.2526), 41: (0.657, 0.2355)}


@pytest.fixture(scope="module")
def exact_law():
    with jax.enable_x64(True):
        return one_step_law(lambda x: line().consistency(x, 80.0, 0.002))


class TestMixture:
    """Of the mixture that few-step objectives are compared on."""

    @pytest.mark.longer
    def test_the_exact_map_keeps_its_law(self, exact_law):
        assert exact_law.std() == pytest.approx(0.7671, abs=2e-4)

    @pytest.mark.parametrize(
        "count", [11, 18, 41, *(pytest.param(n, marks=pytest.mark.longer) for n in (21, 81, 161))]
    )
    def test_ends_of_training_and_distillation_part(self, count, exact_law):
        levels = nodes(count)
        ends = (ct_fixed_point(levels), *(cd_fixed_point(levels, s) for s in ("euler", "heun")))
        for function, (std, away) in zip(ends, ENDS[count], strict=True):
            law = one_step_law(function)
            assert law.std() == pytest.approx(std, abs=2e-3)
            assert np.abs(law - exact_law).mean() == pytest.approx(away, abs=2e-3)

    @pytest.mark.parametrize("count", MEDIANS)
    def test_a_sharp_distance_ends_training_at_the_median(self, count, exact_law):
        law = one_step_law(ct_fixed_point(nodes(count), "median"))
        std, away = MEDIANS[count]
        assert law.std() == pytest.approx(std, abs=3e-3)
        assert np.abs(law - exact_law).mean() == pytest.approx(away, abs=3e-3)
