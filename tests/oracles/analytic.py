"""Exact denoisers, against which rules and solvers are tested."""

import jax
import jax.numpy as jnp
import numpy as np

from guidestar.models.exact.mixture import GaussianMixture

# One-dimensional Gaussian data N(MEAN[label], SPREAD^2) on every coordinate.
SPREAD = 0.5
MEANS = (-1.0, 1.0)


class Unchanging:
    """Base of networks that never change: a program of one is kept, as it is of a pytree."""

    def __init_subclass__(cls):
        jax.tree_util.register_static(cls)


@jax.tree_util.Partial
def gaussian(x, sigma, condition):
    """Denoise Gaussian data whose mean the label chooses; None is the mixture's overall mean."""
    if condition is None:
        mean = 0.0
    else:
        mean = jnp.asarray((*MEANS, 0.0))[condition].reshape((-1,) + (1,) * (x.ndim - 1))
    return mean + (x - mean) * SPREAD**2 / (SPREAD**2 + sigma**2)


class Labelled(Unchanging):
    """The same denoiser, one that knows its null label, so that branches can be stacked."""

    null_condition = num_classes = len(MEANS)

    def __init__(self, denoise=gaussian):
        self.denoise = denoise
        self.calls = 0

    def __call__(self, x, sigma, condition):
        self.calls += 1
        return self.denoise(x, sigma, condition)


@jax.tree_util.Partial
def weak(x, sigma, condition):
    """A worse denoiser of the same data: it believes the data twice as wide."""
    mean = jnp.asarray((*MEANS, 0.0))[condition].reshape((-1,) + (1,) * (x.ndim - 1))
    return mean + (x - mean) * (2 * SPREAD) ** 2 / ((2 * SPREAD) ** 2 + sigma**2)


def two_classes():
    """Return the mixtures of class 0, class 1 and both, in the plane."""
    means = np.array([[-1.0, 0.0], [-0.4, 0.8], [0.7, 0.3], [1.0, -0.6]])
    covariances = np.array(
        [np.diag(d) for d in ([0.05, 0.1], [0.1, 0.02], [0.04, 0.04], [0.2, 0.1])]
    )
    weights = np.array([0.3, 0.2, 0.3, 0.2])
    both = GaussianMixture(weights, means, covariances)
    first = GaussianMixture(weights[:2] / 0.5, means[:2], covariances[:2])
    second = GaussianMixture(weights[2:] / 0.5, means[2:], covariances[2:])
    return first, second, both


def mixture_denoiser():
    """Return a labelled denoiser of `two_classes`; label 2 is the null class."""
    first, second, both = two_classes()

    def denoise(x, sigma, condition):
        condition = jnp.full(x.shape[:1], 2) if condition is None else condition
        stack = jnp.stack([m.denoise(x, sigma) for m in (first, second, both)])
        return jnp.take_along_axis(stack, condition[None, :, None], axis=0)[0]

    return Labelled(denoise)


def mixture_posterior(x, sigma):
    """Return the logits of `two_classes`' exact posterior, at any noise level."""
    first, second, _ = two_classes()
    return jnp.stack([m.log_density(x, sigma) for m in (first, second)], axis=-1)


def gaussian_posterior(x, sigma):
    """Return the logits of `gaussian`'s two labels, at any noise level."""
    distance = jnp.stack([jnp.sum((x - m) ** 2, axis=tuple(range(1, x.ndim))) for m in MEANS], -1)
    return -distance / (2 * (SPREAD**2 + sigma**2))


def keys(count, seed=0):
    """Return one random key a sample."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))
