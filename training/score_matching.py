"""Explicit score matching: regress a network's score on one known exactly.

Used for the 2-D toy of Karras et al., arXiv 2406.02507, whose smoothed density is a mixture.
"""

import jax
import jax.numpy as jnp

from ..models.mixture import GaussianMixture


def score_matching(mixture: GaussianMixture, *, noise_mean: float = -2.3, noise_std: float = 1.5):
    """Return the loss ``E sigma^2 |grad log p(x; sigma) - score(x; sigma)|^2``.

    The mean is over samples and dimensions. Samples come from the mixture itself, smoothed.

    Args:
        mixture: the data's exact density.
        noise_mean, noise_std: of ``ln(sigma)``, normally distributed.

    Returns:
        ``loss(network, params, batch, keys) -> (scalar, metrics)``: ``batch["image"]`` holds
        clean points [batch, d] of the mixture, ``keys`` is one key a sample, and the module of
        ``network`` has ``score(x, sigma)``.
    """

    def loss(network, params, batch, keys):
        clean = batch["image"]

        def draw(key):
            sigma_key, noise_key = jax.random.split(key)
            noise = jax.random.normal(noise_key, clean.shape[1:], clean.dtype)
            return jax.random.normal(sigma_key, (), clean.dtype), noise

        log_sigma, noise = jax.vmap(draw)(keys)
        sigma = jnp.exp(noise_mean + noise_std * log_sigma)
        x = clean + sigma[:, None] * noise
        # The scores are compared, not the denoisers: D - x cancels all digits at small sigma.
        error = mixture.score(x, sigma) - network.module(params).score(x, sigma)
        return jnp.mean(sigma[:, None] ** 2 * error**2), {}

    return loss
