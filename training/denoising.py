"""The EDM denoising loss (Karras et al., arXiv 2206.00364, eq. 8 and Table 1)."""

import jax
import jax.numpy as jnp

from ..models.denoiser import Denoiser
from ..models.preconditioning import EDM


def edm(preconditioner: EDM, *, noise_mean: float = -1.2, noise_std: float = 1.2):
    """Return the loss ``E lambda(sigma) |D(y + sigma n; sigma, c) - y|^2``, mean over elements.

    The mean (the reference sums) keeps the loss near 1 for an untrained network whatever the
    image size, so learning rate and gradient clip carry over between sizes.

    Args:
        preconditioner: turns the raw network into the denoiser and gives lambda(sigma).
        noise_mean, noise_std: of ``ln(sigma)``, normally distributed.

    Returns:
        ``loss(network, params, batch, keys) -> (scalar, metrics)``: ``batch`` holds ``image``
        [batch, ...] and ``label`` [batch] (null where dropped), ``keys`` one key a sample.
    """

    def loss(network, params, batch, keys):
        image = batch["image"]

        def draw(key):
            sigma_key, noise_key = jax.random.split(key)
            noise = jax.random.normal(noise_key, image.shape[1:])
            return jax.random.normal(sigma_key), noise

        log_sigma, noise = jax.vmap(draw)(keys)
        sigma = jnp.exp(noise_mean + noise_std * log_sigma)
        column = sigma.reshape((-1,) + (1,) * (image.ndim - 1))
        denoise = Denoiser(params, network, preconditioner)
        label = batch["label"] if network.num_classes else None
        error = denoise(image + column * noise, sigma, label) - image
        value = jnp.mean(preconditioner.loss_weight(column) * error**2)
        return value, {}

    return loss
