"""Consistency functions: EDM's preconditioning with a boundary at the lowest noise level."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from .edm import EDM, Coefficients


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Preconditioning whose network is a consistency function, ``f(x, sigma_min) = x``.

    Input and time are EDM's, and at sigma_min = 0 the rest too: a pretrained network of EDM's
    preconditioning begins as one of this.

    Attributes:
        sigma_data: standard deviation of the data, in the data's units.
        sigma_min: noise level at which the function leaves its input as it is, whatever the
            parameters.
        noise_scale: as of `EDM`.

    Source: Song et al., arXiv 2303.01469, appendix C.
    """

    estimate: ClassVar[str] = "consistency"
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    noise_scale: float = 1.0

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        plain = EDM(self.sigma_data, self.noise_scale).coefficients(sigma)
        above = sigma - self.sigma_min
        total = jnp.sqrt(sigma**2 + self.sigma_data**2)
        return plain._replace(
            skip=self.sigma_data**2 / (above**2 + self.sigma_data**2),
            out=above * self.sigma_data / total,
        )

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of networks that say nothing else."""
        return self.sigma_min or 0.002, 80.0
