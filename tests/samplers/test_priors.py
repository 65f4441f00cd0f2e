"""First states: the heavy tails of PFGM++, and what every prior keeps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from scipy import stats
from tables.everyday import few
from tables.solver_table import SOLVERS

from guidestar import guidance, samplers
from guidestar.core.random import fold_each
from guidestar.samplers.loop import PRIOR_STREAM
from guidestar.samplers.priors import Gaussian, gaussian, pfgmpp, pfgmpp_kernel

DETERMINISTIC = [
    *("deis_rhork", "deis_tab", "dpmpp", "dpmpp_2s", "euler"),
    *("heun", "ipndm", "ipndm_v", "lms", "pndm"),
]


def unit(count, *shape, seed=0):
    return samplers.unit_noise(keys(count, seed), shape)


def drawn(prior, count, *shape, sigma=2.0):
    return jax.jit(lambda: prior(unit(count, *shape), sigma, keys(count, 1)))()


def run(prior, denoise, noise, sigmas, solver=None, key=None):
    return samplers.sample(
        denoise,
        guidance.unguided(),
        solver or samplers.euler(),
        sigmas,
        noise,
        None,
        keys(len(noise)) if key is None else key,
        prior=prior,
    )


@pytest.mark.longer
def test_one_dimension_of_data_and_one_extra_is_cauchy():
    x = drawn(pfgmpp(1.0), 40_000, 1, sigma=3.0)[:, 0]
    # The standard error of a quantile at q is sqrt(q (1 - q) / n) over the density there.
    for q in (0.05, 0.25, 0.5, 0.75, 0.9):
        exact = stats.cauchy(scale=3.0).ppf(q)
        error = math.sqrt(q * (1 - q) / len(x)) / stats.cauchy(scale=3.0).pdf(exact)
        assert abs(np.quantile(x, q) - exact) < 4 * error


@pytest.mark.parametrize("D", [2.0, 128.0])
def test_squared_norms_are_those_of_the_kernel(D):
    # |x|^2 / (N sigma^2) is a ratio of chi^2 variables: Fisher's distribution.
    x = drawn(pfgmpp(D), 20_000, 2, 3, sigma=2.0)
    ratio = np.sum(np.square(x), axis=(1, 2)) / (6 * 2.0**2)
    assert stats.kstest(ratio, stats.f(6, D).cdf).pvalue > 0.01


def test_radii_are_those_of_the_beta_distribution():
    # r sqrt(b / (1 - b)) at r = sigma sqrt(D), the form in which the kernel was published.
    x = drawn(pfgmpp(4.0), 20_000, 3, sigma=0.5)
    b = np.random.default_rng(0).beta(3 / 2, 4 / 2, 20_000)
    radii = 0.5 * math.sqrt(4.0) * np.sqrt(b / (1 - b))
    assert stats.ks_2samp(np.linalg.norm(x, axis=1), radii).pvalue > 0.01


@pytest.mark.longer
def test_many_extra_dimensions_are_gaussian_diffusion():
    noise = unit(64, 1000)
    for D, close in ((1e4, 0.05), (3e6, 0.004)):
        x = pfgmpp(D)(noise, 2.0, keys(64, 1))
        np.testing.assert_allclose(x, 2 * noise, rtol=close)
    # |x| / (sigma sqrt(N)) -> 1.
    norms = np.linalg.norm(x, axis=1) / (2 * math.sqrt(1000))
    assert np.abs(norms - 1).max() < 4 / math.sqrt(2 * 1000)
    exact = pfgmpp(math.inf)(noise, 2.0, keys(64, 1))
    np.testing.assert_array_equal(exact, gaussian()(noise, 2.0, keys(64, 1)))


@pytest.mark.parametrize("name", few(3, DETERMINISTIC))
def test_a_point_of_data_is_reached_along_straight_lines(name, x64):
    # x(sigma) = y + (sigma / sigma_max) (x_max - y), whatever D: every solver is exact.
    y = jnp.array([[0.5, -1.0, 2.0]] * 4)
    sigmas = samplers.karras(6, 0.05, 5.0, final_zero=False)
    noise, each = unit(4, 3), keys(4)
    start = pfgmpp(1.0)(noise, 5.0, fold_each(each, PRIOR_STREAM))
    end = run(pfgmpp(1.0), lambda x, s, c: y, noise, sigmas, SOLVERS[name].solver, each)
    np.testing.assert_allclose(end, y + 0.05 / 5.0 * (start - y), rtol=1e-11)
    full = run(pfgmpp(1.0), lambda x, s, c: y, noise, [*sigmas, 0.0], SOLVERS[name].solver, each)
    np.testing.assert_array_equal(full, y)


def empirical(points, D):
    """Return the ideal denoiser of a data set under the kernel of PFGM++."""

    def denoise(x, sigma, condition):
        square = jnp.sum((x[:, None] - points) ** 2, axis=-1)
        if math.isinf(D):
            return jax.nn.softmax(-square / (2 * sigma**2), axis=1) @ points
        power = -(x.shape[1] + D) / 2
        return jax.nn.softmax(power * jnp.log(square + D * sigma**2), axis=1) @ points

    return denoise


@pytest.mark.longer
def test_the_flow_of_the_kernel_ends_at_the_data_in_its_shares():
    # Two points to the left, one to the right; the flow divides the kernel's mass like the data.
    points = jnp.array([[-1.0, 0.5], [-1.0, -0.5], [1.5, 0.0]])
    sigmas = samplers.karras(40, 0.002, 40.0)
    end = run(pfgmpp(3.0), empirical(points, 3.0), unit(3000, 2), sigmas, samplers.heun())
    distance = jnp.linalg.norm(end[:, None] - points, axis=-1)
    assert np.mean(distance.min(axis=1) < 1e-3) > 0.99
    shares = np.bincount(distance.argmin(axis=1), minlength=3) / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * math.sqrt(2 / 9 / 3000))


def test_the_ideal_denoiser_approaches_that_of_gaussian_noise(x64):
    points, x = jnp.array([[-1.0, 0.5], [0.3, -0.5], [1.5, 0.0]]), unit(50, 2)
    limit = empirical(points, math.inf)(x, 0.8, None)
    errors = [np.abs(empirical(points, D)(x, 0.8, None) - limit).max() for D in (1e4, 1e5)]
    assert 9 < errors[0] / errors[1] < 11


def test_training_data_is_perturbed_by_the_same_kernel(x64):
    x0, sigma = unit(6, 2, 2, seed=3), jnp.array([0.1, 1.0, 3.0, 0.5, 7.0, 2.0])
    each = keys(6)
    perturbed = pfgmpp_kernel(x0, sigma, 5.0, each)
    noise = samplers.unit_noise(fold_each(each, 1), (2, 2))
    offset = pfgmpp(5.0)(noise, 1.0, each)
    np.testing.assert_allclose(perturbed, x0 + sigma[:, None, None] * offset)
    alone = pfgmpp_kernel(x0[2:3], 3.0, 5.0, each[2:3])
    np.testing.assert_allclose(alone[0], perturbed[2], rtol=1e-12)
    # chi^2 and the noise must not come from one stream: their draws would depend on each other.
    x = jax.jit(lambda: pfgmpp_kernel(jnp.zeros((20_000, 1)), 1.0, 2.0, jax.random.key(2)))()
    assert stats.kstest(np.asarray(x[:, 0]), stats.t(2).cdf).pvalue > 0.01


@pytest.mark.longer
def test_a_sample_draws_its_own_tail():
    noise, each = unit(5, 3), keys(5)
    wider = pfgmpp(1.0)(noise, 2.0, each) / (2 * noise)
    np.testing.assert_allclose(wider, np.broadcast_to(wider[:, :1], wider.shape), rtol=1e-5)
    assert np.ptp(wider[:, 0]) > 0.1
    np.testing.assert_allclose(pfgmpp(1.0)(noise[3:4], 2.0, each[3:4])[0], 2 * noise[3] * wider[3])


@pytest.mark.longer
def test_a_new_number_of_extra_dimensions_compiles_nothing(compilations):
    def denoise(x, sigma, condition):
        return x / (1 + sigma**2)

    noise, sigmas = unit(4, 3), samplers.karras(4)
    first = run(pfgmpp(1.0), denoise, noise, sigmas)
    with compilations() as compiled:
        others = [run(pfgmpp(D), denoise, noise, sigmas) for D in (2.0, math.inf)]
    assert not compiled
    assert np.abs(first - others[0]).max() > 0
    plain = run(gaussian(), denoise, noise, sigmas)
    np.testing.assert_allclose(others[1], plain, rtol=1e-6)


def test_the_default_prior_is_gaussian():
    assert gaussian() == Gaussian()
    noise, sigmas = unit(4, 3), samplers.karras(4)
    ends = [
        samplers.sample(
            lambda x, s, c: x / 2,
            guidance.unguided(),
            samplers.euler(),
            sigmas,
            noise,
            None,
            keys(4),
            **options,
        )
        for options in ({}, {"prior": gaussian()})
    ]
    np.testing.assert_array_equal(*ends)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pfgmpp(0), r"samplers.pfgmpp: D must be a plain number above 0"),
        (lambda: pfgmpp(-3.0), "above 0"),
        (lambda: pfgmpp(float("nan")), "above 0"),
        (lambda: pfgmpp("many"), "above 0"),
        (lambda: pfgmpp_kernel(jnp.ones((2, 3)), 1.0, 0.0, jax.random.key(0)), "pfgmpp_kernel: D"),
        (
            lambda: pfgmpp_kernel(jnp.ones((2, 3)), jnp.ones(3), 1.0, jax.random.key(0)),
            r"one per sample \(2\)",
        ),
        (lambda: pfgmpp_kernel(jnp.ones((2, 3)), 1.0, 1.0, keys(3)), "one per sample"),
    ],
)
def test_kernels_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
