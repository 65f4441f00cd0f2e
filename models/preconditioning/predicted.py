"""Other predictions in a process's own coordinates: what a network returns, apart from its input.

A process scales its samples, ``x_t = alpha x`` with ``x = x0 + sigma noise``, and has times; what
is predicted there may be the noise, x0 itself, or the velocity of arXiv 2202.00512.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .diffusion import NoiseWeight, predicts_noise
from .edm import Coefficients

PREDICTIONS = ("eps", "v", "x0")


@dataclasses.dataclass(frozen=True)
class Predicted(NoiseWeight):
    """Another prediction at the inputs and times of a preconditioner.

    With ``s = alpha sigma``: of noise, ``D = x - sigma F``; of x0, ``D = F``; of velocity,
    ``v = alpha noise - s x0``, ``D = (alpha x_t - s F) / (alpha^2 + s^2)``.

    Attributes:
        process: a preconditioner, whose c_in is alpha and whose c_noise is the time.
        prediction: "eps", "v" or "x0".

    Raises:
        ValueError: another prediction.

    Source: Salimans and Ho, arXiv 2202.00512, sec. 4 and appendix D.
    """

    process: Any
    prediction: str

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}"
            )

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of the process."""
        return self.process.sigma_range

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        _, _, alpha, time = self.process.coefficients(sigma)
        if self.prediction == "eps":
            return predicts_noise(sigma, alpha, time)
        if self.prediction == "x0":
            return Coefficients(jnp.zeros_like(sigma), jnp.ones_like(sigma), alpha, time)
        spread = alpha * (1 + sigma**2)
        return Coefficients(alpha / spread, -sigma / spread, alpha, time)
