"""The denoising loss: every target, weight and distribution of noise levels of the field.

EDM's loss (Karras et al., arXiv 2206.00364, eq. 8) and those on a predicted noise, velocity or x0
differ in the preconditioner of the network, the weight of each noise level and how often it is
drawn; this is the one function for all of them.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ..noise.corruption import Corruption, Outcome, outcome
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting, uniform
from .loss import MAIN, Batch, Roles, over_elements


@dataclasses.dataclass(frozen=True)
class Denoising:
    """``w(sigma) |D(y + sigma n; sigma, c) - y|^2``, mean over the elements of a sample.

    The mean (EDM's code sums) keeps the loss near 1 for an untrained network whatever the image
    size, so learning rate and gradient clip carry over between sizes.

    Attributes:
        preconditioner: of the network.
        corruption: noise levels, noise and augmentation.
        weighting: w, see `training.weightings`.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting = dataclasses.field(default_factory=uniform)

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss and no further metrics; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        found = outcome(main.denoiser, given)
        return weighted_error(self.weighting, self.preconditioner, given.column, found), {}


def weighted_error(
    weighting: Weighting, preconditioner: Preconditioner, sigma: Array, found: Outcome
) -> Float[Array, " batch"]:
    """Return ``w(sigma) |D - x0|^2`` of each sample, mean over its elements.

    Args:
        weighting: w.
        preconditioner: of the network.
        sigma: noise levels, shaped to multiply samples.
        found: what the network gave.
    """
    # |D - x0|^2 = c_out^2 |F - F*|^2: the two factors are one number near 1 before it multiplies.
    weight = weighting(sigma, preconditioner) * found.coefficients.out**2
    return over_elements(jnp.mean, weight * found.error**2)


@register("loss", "2206.00364")
def denoising(
    preconditioner: Preconditioner, corruption: Corruption, weighting: Weighting, /
) -> Denoising:
    """Minimise the weighted error of the denoised sample."""
    return Denoising(preconditioner, corruption, weighting)
