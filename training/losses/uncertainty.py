"""EDM2's loss: the denoising loss with a weight of each noise level that is learned."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ..noise.corruption import Corruption, outcome
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting, uniform
from .denoising import weighted_error
from .loss import MAIN, Batch, Roles


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """``exp(-u(sigma)) w(sigma) |D - y|^2 + u(sigma)``, mean over the elements of a sample.

    The network's module has ``log_variance(c_noise) -> u`` beside its call. Where u is best, it
    is the logarithm of the weighted error at that noise level: the first term is then 1 at all of
    them, and the loss, 1 + E[u], may be negative.

    Attributes:
        preconditioner: of the network.
        corruption: noise levels, noise and augmentation.
        weighting: w; what it is matters for the first steps alone.

    Source: Karras et al., arXiv 2312.02696, eq. 21; Kendall et al., arXiv 1705.07115.
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
        """Return each sample's loss, and the error without the learned weight; see `Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        found = outcome(main.denoiser, given)
        error = weighted_error(self.weighting, self.preconditioner, given.column, found)
        log_variance = main.network.module(main.params).log_variance(
            found.coefficients.noise.reshape(-1)
        )
        return jnp.exp(-log_variance) * error + log_variance, {"denoising_error": error}


@register("loss", "2312.02696")
def uncertainty(
    preconditioner: Preconditioner, corruption: Corruption, weighting: Weighting, /
) -> Uncertainty:
    """Minimise the denoising error with a weight of each noise level that is learned."""
    return Uncertainty(preconditioner, corruption, weighting)
