"""A flax.linen network in v-prediction as a denoiser: ``python examples/own_denoiser.py``."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidestar import guidance, models, samplers


class Small(nn.Module):
    """Predict v at a step from 0 to 999 of a table; label 2 is no class."""

    @nn.compact
    def __call__(self, x, t, label):
        told = nn.Embed(3, 16)(label) + nn.Dense(16)(t[:, None] / 1000)
        return x + nn.Dense(x.shape[-1])(nn.silu(nn.Dense(16)(x) + told[:, None, None]))


def main(seed: int = 0) -> jax.Array:
    """Return samples ``[4, 8, 8, 1]`` of a network that has learnt nothing yet."""
    key, network = jax.random.key(seed), Small()
    noise, labels = jax.random.normal(key, (4, 8, 8, 1)), jnp.arange(4) % 2
    denoise = models.wrap(
        network.apply,
        network.init(key, noise, jnp.zeros(4), labels),
        prediction="v",
        schedule="scaled_linear",
        shape=(8, 8, 1),
        num_classes=2,
        null_condition=2,
    )
    rule = guidance.between(guidance.apg(3.0), 0.3, 5.0)
    sigmas = samplers.karras(10, *denoise.sigma_range)
    return samplers.sample(denoise, rule, samplers.dpmpp(), sigmas, noise, labels, key)


if __name__ == "__main__":
    print(main().std(axis=(1, 2, 3)))
