"""Where few-step objectives end exactly: products over nodes, and fixed points by quadrature.

Consistency training on nodes ``s_1 < ... < s_N`` has the fixed point ``f_{n+1}(x) =
E[f_n(x0 + s_n z) | x0 + s_{n+1} z = x]``; distillation composes a solver's steps.
"""

import numpy as np
from scipy.stats import norm

from guidestar.models.exact import mixture_1d
from guidestar.samplers import karras

# The mixture that few-step objectives are compared on.
M1 = dict(weights=(0.3, 0.7), means=(-1.0, 0.6), stds=(0.15, 0.25))
GRID = np.linspace(-7.0, 7.0, 4001)


def line():
    """Return the mixture M1."""
    return mixture_1d(**M1)


def nodes(count, low=0.002, high=80.0):
    """Return so many noise levels of Karras' schedule, increasing, the lowest not 0."""
    return karras(count, sigma_min=low, sigma_max=high)[:-1][::-1]


def euler_product(std, levels):
    """Return the factor of Euler's method on Gaussian data, down increasing levels."""
    above, below, var = levels[1:], levels[:-1], std**2
    return np.prod((var + above * below) / (var + above**2))


def heun_product(std, levels):
    """Return the factor of Heun's method on Gaussian data, down increasing levels."""
    above, below, var = levels[1:], levels[:-1], std**2
    step, first, second = below - above, above / (var + above**2), below / (var + below**2)
    return np.prod(1 + step * first / 2 + step * second / 2 * (1 + step * first))


def guided_heun_product(wide, narrow, scale, levels):
    """Return Heun's factor on the guided field of two centred Gaussians, by their variances."""
    above, below = levels[1:], levels[:-1]

    def slope(level):
        return (1 - scale) * level / (wide + level**2) + scale * level / (narrow + level**2)

    step, first, second = below - above, slope(above), slope(below)
    return np.prod(1 + step * first / 2 + step * second / 2 * (1 + step * first))


def denoise(x, sigma):
    """Return M1's posterior mean, and each component's share, mean and std of x0 given x."""
    weights, means, stds = (np.array(M1[name]) for name in ("weights", "means", "stds"))
    total = stds**2 + sigma**2
    log = np.log(weights) - (x[..., None] - means) ** 2 / (2 * total) - np.log(total) / 2
    share = np.exp(log - log.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    mean = means + stds**2 / total * (x[..., None] - means)
    return (share * mean).sum(-1), share, mean, np.sqrt(stds**2 * sigma**2 / total)


def _as_function(values, sigma):
    """Return a function of x from its values on the grid, scaled as data at ``sigma`` are."""
    scale = np.sqrt(1 + sigma**2)
    return lambda x: np.interp(np.asarray(x) / scale, GRID, values)


def ct_fixed_point(levels, center="mean"):
    """Return the consistency function of M1 at the highest level that CT ends at.

    Args:
        levels: increasing.
        center: ``mean`` of the conditional law, or ``median``, which a distance with a small
            pseudo-Huber constant ends at.
    """
    roots, weights = np.polynomial.hermite_e.hermegauss(32)
    weights = weights / weights.sum()
    last = levels[0]
    function = _as_function(GRID * np.sqrt(1 + last**2), last)
    for low, high in zip(levels[:-1], levels[1:], strict=True):
        x = GRID * np.sqrt(1 + high**2)
        _, share, mean, spread = denoise(x, high)
        ratio = low / high
        below = ratio * x[:, None] + (1 - ratio) * mean
        if center == "mean":
            points = below[..., None] + (1 - ratio) * spread[:, None] * roots
            values = np.einsum("nk,nkq,q->n", share, function(points), weights)
        else:
            # The function increases: its median is its value at the median, found by halving.
            width = (1 - ratio) * spread
            bottom = (below - 9 * width).min(-1)
            top = (below + 9 * width).max(-1)
            for _ in range(50):
                middle = (bottom + top) / 2
                lower = (share * norm.cdf((middle[:, None] - below) / width)).sum(-1) < 0.5
                bottom, top = np.where(lower, middle, bottom), np.where(lower, top, middle)
            values = function((bottom + top) / 2)
        function = _as_function(values, high)
    return function


def cd_fixed_point(levels, solver):
    """Return that of distillation from M1's exact denoiser by ``euler`` or ``heun``."""

    def step(x, high, low):
        first = (x - denoise(x, high)[0]) / high
        trial = x + (low - high) * first
        if solver == "euler":
            return trial
        return x + (low - high) / 2 * (first + (trial - denoise(trial, low)[0]) / low)

    def function(x):
        for low, high in zip(levels[:-1][::-1], levels[1:][::-1], strict=True):
            x = step(x, high, low)
        return x

    return function


def one_step_law(function, sigma_max=80.0, count=20_001):
    """Return the sorted outputs of a one-step generator at so many quantiles of its noise."""
    share = (np.arange(count) + 0.5) / count
    return np.sort(np.asarray(function(sigma_max * norm.ppf(share))))
