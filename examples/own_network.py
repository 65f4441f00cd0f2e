"""A network of one's own, registered: built by name, as a config's model section names it.

python examples/own_network.py
"""

import jax
import jax.numpy as jnp
from flax import nnx

from guidestar import guidance, models, register, samplers
from guidestar.models.preconditioning import EDM


class Shallow(nnx.Module):
    """Two convolutions; the label after the last class is none."""

    def __init__(self, width: int, classes: int, rngs: nnx.Rngs):
        self.label = nnx.Embed(classes + 1, width, rngs=rngs)
        self.first = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.last = nnx.Conv(width, 1, (3, 3), rngs=rngs)

    def __call__(self, x, time, label):
        told = self.label(label) + time[:, None]
        return self.last(nnx.silu(self.first(x) + told[:, None, None]))


@register("network")
def shallow(image_size: int = 8, width: int = 32, num_classes: int = 10) -> models.Spec:
    """Return what builds one, conditioned on a class, in EDM's preconditioning."""
    shape = (image_size, image_size, 1)
    return models.Spec(lambda rngs: Shallow(width, num_classes, rngs), num_classes, shape, EDM(0.5))


def main(seed: int = 0) -> jax.Array:
    """Return four samples ``[4, 8, 8, 1]`` of fresh parameters."""
    denoise = models.create("shallow", key=jax.random.key(seed), width=16)
    noise, keys = jax.random.normal(jax.random.key(seed), (4, 8, 8, 1)), jax.random.key(seed)
    run = guidance.cfg(2.0), samplers.heun(), samplers.karras(8), noise, jnp.arange(4), keys
    return samplers.sample(denoise, *run)
