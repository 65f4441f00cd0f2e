"""A loss of one's own, named by a config like any other.

python main.py --config=configs/digits.py --workdir=out/own --config.imports=examples/own_loss.py \
    --config.training.loss.name=huber --config.training.loss.delta=0.5
"""

import dataclasses

import jax.numpy as jnp

from guidestar import register
from guidestar.training.noise.corruption import Corruption


@dataclasses.dataclass(frozen=True)
class Huber:
    """Huber's loss of the denoised sample: quadratic near 0, linear beyond ``delta``."""

    preconditioner: object
    corruption: Corruption
    delta: float

    def __call__(self, roles, batch, keys, span=(0.0, 1.0)):
        """Return each sample's loss, and the share of pixels in the linear part."""
        main = roles["main"]
        given = self.corruption(main.network, batch, keys, span)
        denoised = main.denoiser(given.noisy, given.sigma, given.condition)
        error = jnp.abs(denoised - given.clean)
        near = error <= self.delta
        value = jnp.where(near, 0.5 * error**2, self.delta * (error - 0.5 * self.delta))
        axes = tuple(range(1, error.ndim))
        return value.mean(axes), {"far_share": 1.0 - near.mean(axes)}


@register("loss")
def huber(preconditioner, corruption, /, delta: float = 1.0) -> Huber:
    """Build the loss; what stands before the / comes from the recipe, by name."""
    return Huber(preconditioner, corruption, delta)
