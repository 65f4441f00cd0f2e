"""A sampling loop of one's own with Guidestar's rules: APG on a toy denoiser, step by step.

python examples/own_sampler.py
"""

import jax
import jax.numpy as jnp

from guidestar import guidance

MEANS, SPREAD = jnp.array([-1.0, 1.0]), 0.3


def denoise(x, sigma, mean, spread):
    """Return the exact x0 prediction for Gaussian data."""
    return mean + (x - mean) * spread**2 / (spread**2 + sigma**2)


def main() -> jax.Array:
    """Sample eight 4x4 images of two classes and return them."""
    rule = guidance.between(guidance.apg(4.0, eta=0.0, norm=2.5, momentum=-0.5), 0.1, 5.0)
    labels = jnp.arange(8) % 2
    mean = MEANS[labels][:, None, None, None]
    sigmas = [20.0 * 0.7**i for i in range(24)] + [0.0]
    x = sigmas[0] * jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
    state = None
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        predictions = {
            "given": denoise(x, sigma, mean, SPREAD),
            "null": denoise(x, sigma, 0.0, 1.0),
        }
        guided, state = guidance.combine(rule, predictions, x=x, sigma=sigma, state=state)
        x = guided.denoised + following / sigma * (x - guided.denoised)
    return x


if __name__ == "__main__":
    images = main()
    print("mean of each image:", [round(float(m), 2) for m in images.mean(axis=(1, 2, 3))])
