"""A distribution of noise levels of one's own: half of them at one level, half around it.

python main.py --config=configs/digits.py --workdir=out/own --config.imports=examples/own_noise.py \
    --config.training.noise.name=spike --config.training.noise.at=0.4
"""

import dataclasses

import jax.numpy as jnp

from guidestar import register


@dataclasses.dataclass(frozen=True)
class Spike:
    """Log-uniform between two ends, but for the middle half of the draws, which are all ``at``."""

    at: float
    low: float
    high: float

    def quantile(self, share):
        """Return the sigma below which ``share`` of the draws lie."""
        share = jnp.asarray(share)
        below = self.low * (self.at / self.low) ** jnp.clip(4 * share, 0, 1)
        above = self.at * (self.high / self.at) ** jnp.clip(4 * share - 3, 0, 1)
        return jnp.where(share < 0.5, below, above)


@register("noise")
def spike(at: float = 0.4, low: float = 0.002, high: float = 80.0) -> Spike:
    """Draw around one noise level."""
    if not 0 < low < at < high:
        raise ValueError(f"spike: need 0 < low < at < high, got {low}, {at}, {high}")
    return Spike(at, low, high)
