"""What "scale w" means in each family of students, on Gaussians: laws in closed form."""

import numpy as np
import pytest
from scipy.optimize import brentq

from guidestar.models.exact import gaussian

WIDE, NARROW = 1.0, 0.25


def shrinkage(variance, sigma):
    """Return the factor by which a Gaussian's denoiser multiplies."""
    return variance / (variance + sigma**2)


def guided_shrinkage(scale, sigma):
    return scale * shrinkage(NARROW, sigma) + (1 - scale) * shrinkage(WIDE, sigma)


LAWS = {1.5: (0.125, 0.1818), 2.0: (0.0625, 0.1429), 3.0: (0.0156, 0.1)}


@pytest.mark.parametrize("scale", LAWS)
def test_trajectories_end_at_the_geometric_and_tilts_at_the_harmonic_mean(scale):
    main, reference = gaussian(0.0, NARROW**0.5), gaussian(0.0, WIDE**0.5)
    end = main.guided_flow_map(1e4, 1e4, 0.0, reference=reference, scale=scale)
    geometric, harmonic = LAWS[scale]
    assert float(end) ** 2 == pytest.approx(geometric, abs=1e-4)
    assert 1 / (scale / NARROW + (1 - scale) / WIDE) == pytest.approx(harmonic, abs=1e-4)


# Scale -> variance at which matching at one noise level, .1, .3, .5, 1, ends; None is collapse.
MATCHED = {
    1.5: (0.180, 0.163, 0.135, 0.053),
    2.0: (0.139, 0.111, 0.0625, None),
    3.0: (0.095, 0.053, None, None),
}


@pytest.mark.parametrize("scale", MATCHED)
def test_matching_at_one_noise_level_ends_between_them_or_collapses(scale):
    for sigma, expected in zip((0.1, 0.3, 0.5, 1.0), MATCHED[scale], strict=True):
        factor = guided_shrinkage(scale, sigma)
        found = sigma**2 * factor / (1 - factor)
        assert found < 0 if expected is None else found == pytest.approx(expected, abs=6e-4)


RANGES = ((0.02, 0.2), (0.02, 1.0), (0.02, 5.0))
PUBLISHED = {
    1.5: (0.179, 0.157, 0.145),
    2.0: (0.138, 0.105, 0.089),
    3.0: (0.093, 0.057, 0.046),
}


@pytest.mark.parametrize("scale", PUBLISHED)
def test_matching_over_a_range_depends_on_the_range(scale):
    """With the published weight, one over the distance between a sample and the prediction."""
    for (low, high), expected in zip(RANGES, PUBLISHED[scale], strict=True):
        sigmas = np.geomspace(low, high, 400)

        def slope(variance, sigmas=sigmas):
            real = guided_shrinkage(scale, sigmas)
            fake = shrinkage(variance, sigmas)
            # Of sample a z: its distance to real (a z + sigma n), a Gaussian's mean magnitude.
            size = np.sqrt(variance * (1 - real) ** 2 + (real * sigmas) ** 2)
            return np.mean((fake - real) / size)

        found = brentq(slope, 1e-4, 1.0)
        assert found == pytest.approx(expected, abs=4e-3)


class TestMatching:
    """A generator a z against a Gaussian of variance C, at one noise level."""

    C, SIGMA = 0.25, 1.0

    def parts(self, a):
        return shrinkage(self.C, self.SIGMA), shrinkage(a**2, self.SIGMA)

    def test_dmds_gradient_is_that_of_the_divergence(self):
        """A (k_f - k_r) = sigma^2 d/da KL(N(0, a^2 + s) | N(0, C + s))."""

        def divergence(a):
            ratio = (a**2 + self.SIGMA**2) / (self.C + self.SIGMA**2)
            return 0.5 * (ratio - 1 - np.log(ratio))

        for a in (0.2, 0.5, 2.0):
            real, fake = self.parts(a)
            slope = (divergence(a + 1e-6) - divergence(a - 1e-6)) / 2e-6
            assert a * (fake - real) == pytest.approx(self.SIGMA**2 * slope, abs=1e-8)

    @pytest.mark.parametrize(("alpha", "slope"), [(1.0, 0.42), (1.2, -0.168)])
    def test_sid_diverges_from_a_wide_generator_above_alpha_1(self, alpha, slope):
        a = 3.0
        real, fake = self.parts(a)
        k = real - fake
        assert 2 * a * k * (real - 1 - alpha * k) == pytest.approx(slope, abs=2e-3)
        basin = fake - real < (1 - real) / alpha
        assert basin == (slope > 0)

    def test_sid_at_alpha_1_is_sim(self):
        """2/s^2 (D_r - D_f)(D_f - y) is SIM's, and SiD's bracket is D_f - y."""
        random = np.random.RandomState(0)
        y, real, fake = random.randn(3, 50)
        np.testing.assert_allclose((real - y) - (real - fake), fake - y, atol=1e-12)

    def test_the_drift_of_gaussian_kernels_is_a_difference_of_denoisers(self):
        random, h = np.random.RandomState(1), 0.7
        x, positives, negatives = random.randn(5), random.randn(40), random.randn(30) + 1

        def shift(points):
            weights = np.exp(-((x[:, None] - points) ** 2) / (2 * h**2))
            return (weights * (points - x[:, None])).sum(1) / weights.sum(1)

        def denoised(points):
            log = -((x[:, None] - points) ** 2) / (2 * h**2)
            share = np.exp(log - log.max(1, keepdims=True))
            return (share / share.sum(1, keepdims=True)) @ points

        drift = shift(positives) - shift(negatives)
        np.testing.assert_allclose(drift, denoised(positives) - denoised(negatives), atol=1e-14)


# eta of the DDIM teacher -> std over the data's of a one-step student, 18, 50 and 201 nodes.
STOCHASTIC = {
    0.0: (0.846, 0.944, 0.986),
    0.1: (0.819, 0.904, 0.939),
    0.3: (0.625, 0.637, 0.635),
    1.0: (0.0063, 0.0063, 0.0063),
}


@pytest.mark.parametrize("eta", STOCHASTIC)
def test_a_student_of_a_stochastic_teacher_shrinks_to_a_denoiser(eta):
    """Regression on eta-DDIM's random steps averages them: its mean step, node after node."""
    var = 0.25
    for count, expected in zip((18, 50, 201), STOCHASTIC[eta], strict=True):
        share = np.linspace(0, 1, count)
        levels = (0.002 ** (1 / 7) + share * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
        above, below = levels[1:], levels[:-1]
        up = eta * below / above * np.sqrt(above**2 - below**2)
        down = np.sqrt(below**2 - up**2)
        factor = np.prod(shrinkage(var, above) + down / above * (1 - shrinkage(var, above)))
        std = factor * np.sqrt(var + 80.0**2) / np.sqrt(var)
        assert std == pytest.approx(expected, abs=3e-3)


# Uniform flow steps of a shortcut's first rung -> std of the one-step map over the data's.
SHORTCUT = {128: 0.98849, 64: 0.97711, 32: 0.95473, 8: 0.82957, 2: 0.4, 1: 0.0}


@pytest.mark.parametrize("steps", SHORTCUT)
def test_a_shortcut_composes_eulers_flow_steps(steps):
    var, times = 0.25, np.linspace(1, 0, steps + 1)
    factor = 1.0
    for begin, end in zip(times[:-1], times[1:], strict=True):
        spread = (1 - begin) ** 2 * var + begin**2
        factor *= 1 + (end - begin) * (begin - (1 - begin) * var) / spread
    assert factor / 0.5 == pytest.approx(SHORTCUT[steps], abs=2e-5)


def test_a_chain_needs_draws_of_the_posterior_and_not_its_mean():
    """Four steps of DDPM's posterior given x0, std 1/2."""
    var, levels = 0.25, np.array([80.0, 5.0, 1.0, 0.3, 0.0])
    chains = {}
    for drawn in (True, False):
        spread = var + levels[0] ** 2
        for high, low in zip(levels[:-1], levels[1:], strict=True):
            keep, own = low**2 / high**2, shrinkage(var, high)
            noise = low**2 * (high**2 - low**2) / high**2
            own_noise = own * high**2 if drawn else 0.0
            gain = keep + (1 - keep) * own
            spread = gain**2 * spread + (1 - keep) ** 2 * own_noise + noise
        chains[drawn] = np.sqrt(spread)
    assert chains[True] == pytest.approx(0.5, abs=1e-6)
    assert chains[False] < 0.45


# Integers of LCM's grid: its 50-step DDIM on the scaled-linear table.
@pytest.mark.parametrize(("std", "ratio"), [(1.0, 0.9729), (0.5, 0.9512)])
def test_lcms_grid_loses_a_little_contrast(std, ratio):
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    steps = [*range(999, 0, -20), 0]
    levels = np.sqrt((1 - alphas) / alphas)[steps]
    above, below, var = levels[:-1], levels[1:], std**2
    factor = np.prod((var + above * below) / (var + above**2))
    # The last node's answer is nearly the data's: its own noise is left.
    exact = np.sqrt((var + levels[-1] ** 2) / (var + levels[0] ** 2))
    assert factor / exact == pytest.approx(ratio, abs=2e-3)
