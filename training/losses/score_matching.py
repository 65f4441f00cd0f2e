"""Explicit score matching: regress a network's score on one known exactly.

Used for the 2-D toy of Karras et al., arXiv 2406.02507, whose smoothed density is a mixture.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...models.exact.mixture import GaussianMixture
from ..noise.corruption import NOISE, SIGMA
from ..noise.levels import WHOLE, Noise, draw
from .loss import MAIN, Batch, Roles, over_elements


@dataclasses.dataclass(frozen=True)
class ScoreMatching:
    """``sigma^2 |grad log p(x; sigma) - score(x; sigma)|^2``, mean over a sample's dimensions.

    Attributes:
        mixture: the data's exact density.
        levels: distribution of noise levels.
    """

    mixture: GaussianMixture
    levels: Noise

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss and no further metrics; see `losses.Loss`.

        ``batch["x"]`` holds clean points ``[batch, d]`` of the mixture, and the module of
        the network has ``score(x, sigma)``.
        """
        clean, main = batch["x"], roles[MAIN]
        sigma = draw(self.levels, fold_each(keys, SIGMA), span)
        x = clean + sigma[:, None] * normal_like(fold_each(keys, NOISE), clean)
        # The scores are compared, not the denoisers: D - x cancels all digits at small sigma.
        error = self.mixture.score(x, sigma) - main.network.module(main.params).score(x, sigma)
        return over_elements(jnp.mean, sigma[:, None] ** 2 * error**2), {}


@register("loss", "2406.02507")
def score_matching(mixture: GaussianMixture, levels: Noise, /) -> ScoreMatching:
    """Minimise the error of the score, of data whose density is known."""
    return ScoreMatching(mixture, levels)
