"""Flow matching: the error of a predicted velocity, and optionally of its direction.

For any path ``a(t) x0 + s(t) noise`` the velocity is a linear function of x0 and x, so its squared
error is the denoising loss with weight ``1 / c_out^2`` for the path's preconditioner.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ..noise.corruption import Corruption, outcome
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting, uniform
from .denoising import weighted_error
from .loss import MAIN, Batch, Roles, over_elements


@dataclasses.dataclass(frozen=True)
class FlowMatching:
    """``|v - v*|^2 + cosine (1 - cos(v, v*))``, means over the elements of a sample.

    The cosine is that of the channels at each position.

    Attributes:
        preconditioner: of a network that predicts a velocity.
        corruption: noise levels (`noise.flow_times`, `noise.logit_normal`), noise, augmentation.
        weighting: of the first term, as a weight of the error in x0; by default that term is as
            above.
        cosine: weight of the second term: 0 as in SiT, 1 as in LightningDiT.

    Raises:
        ValueError: a negative weight.

    Source: Lipman et al., arXiv 2210.02747; Ma et al., arXiv 2401.08740; the cosine Yao et al.,
    arXiv 2501.01423.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting = dataclasses.field(default_factory=uniform)
    cosine: float = 0.0

    def __post_init__(self):
        if not self.cosine >= 0:
            raise ValueError(f"flow_matching: cosine is a weight, 0 or more, got {self.cosine}")

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and its parts where there are two; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        found = outcome(main.denoiser, given)
        error = weighted_error(self.weighting, self.preconditioner, given.column, found)
        if not self.cosine:
            return error, {}
        predicted = found.raw[..., : found.target.shape[-1]]
        direction = over_elements(jnp.mean, 1 - _cosine(predicted, found.target))
        return error + self.cosine * direction, {
            "velocity_error": error,
            "direction_error": direction,
        }


def _cosine(a: Float[Array, "*shape channel"], b: Float[Array, "*shape channel"]) -> Array:
    """Return the cosine of the angle between channels; 0 where one of them is 0."""
    # Velocities are of unit scale: what is added bounds the gradient where a fresh network gives 0.
    lengths = jnp.sum(a**2, axis=-1) * jnp.sum(b**2, axis=-1)
    return jnp.sum(a * b, axis=-1) / jnp.sqrt(lengths + 1e-4)


@register("loss", "2210.02747", "2401.08740")
def flow_matching(
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    /,
    cosine: float = 0.0,
) -> FlowMatching:
    """Minimise the error of the predicted velocity, and optionally of its direction.

    Args:
        preconditioner, corruption, weighting, cosine: as of `FlowMatching`.
    """
    return FlowMatching(preconditioner, corruption, weighting, cosine)
