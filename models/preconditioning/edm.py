"""EDM preconditioning, and none (Karras et al., arXiv 2206.00364, Table 1)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Coefficients(NamedTuple):
    """The four functions of sigma, each of sigma's shape."""

    skip: Array
    out: Array
    inside: Array
    noise: Array


@dataclasses.dataclass(frozen=True)
class EDM:
    """EDM preconditioning, arXiv 2206.00364, eq. 7 and Table 1.

    Attributes:
        sigma_data: standard deviation of the data, in the data's units.
        noise_scale: multiplies ``ln(sigma) / 4`` before it enters the network: 1 for networks
            with Fourier features of their own (EDM, EDM2), larger for a DiT, whose sinusoids
            expect time in the hundreds.
    """

    sigma_data: float = 0.5
    noise_scale: float = 1.0

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            skip=self.sigma_data**2 / total,
            out=sigma * self.sigma_data / jnp.sqrt(total),
            inside=1 / jnp.sqrt(total),
            noise=jnp.log(sigma) / 4 * self.noise_scale,
        )

    def loss_weight(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return ``lambda(sigma) = 1 / c_out^2``: with it, an untrained network's loss is 1."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclasses.dataclass(frozen=True)
class Direct:
    """No preconditioning: the network takes ``(x, sigma)`` and returns the x0 estimate itself."""

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return the coefficients that leave input and output as they are."""
        return Coefficients(
            jnp.zeros_like(sigma), jnp.ones_like(sigma), jnp.ones_like(sigma), sigma
        )
