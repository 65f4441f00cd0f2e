"""Networks that predict noise: VP, VE and improved DDPM (arXiv 2206.00364, Table 1).

Their loss on the predicted noise is the x0 loss with weight ``1 / sigma^2``.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.noise_levels import cosine_table, linear_sigma, linear_time
from .edm import Coefficients


def predicts_noise(sigma: Float[Array, "..."], inside: Array, noise: Array) -> Coefficients:
    """Return the coefficients of ``D = x - sigma F(c_in x; c_noise)``."""
    return Coefficients(jnp.ones_like(sigma), -sigma, inside, noise)


class NoiseWeight:
    """The weight that makes an x0 loss the loss on the predicted noise."""

    def loss_weight(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return ``lambda(sigma) = 1 / sigma^2``."""
        return 1 / sigma**2


@dataclasses.dataclass(frozen=True)
class VP(NoiseWeight):
    """Variance-preserving diffusion in continuous time, trained in steps (arXiv 2011.13456).

    ``sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1``; the network is told ``(steps - 1) t``.

    Attributes:
        beta_d, beta_min: slope and start of beta.
        steps: number of time steps that the network's time input counts; 2 for a network that is
            told t itself.
        epsilon_t: the least time that it was trained on.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: float = 1000
    epsilon_t: float = 1e-5

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of the process, at times ``epsilon_t`` and 1."""
        ends = (self.epsilon_t, 1.0)
        low, high = (float(linear_sigma(t, self.beta_min, self.beta_d)) for t in ends)
        return low, high

    def time(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the time at which the process has noise level ``sigma``."""
        return jnp.asarray(linear_time(jnp.asarray(sigma), self.beta_min, self.beta_d))

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        noise = (self.steps - 1) * self.time(sigma)
        return predicts_noise(sigma, 1 / jnp.sqrt(sigma**2 + 1), noise)


@dataclasses.dataclass(frozen=True)
class VE(NoiseWeight):
    """Variance-exploding diffusion (arXiv 2011.13456): the network returns minus the noise.

    Attributes:
        sigma_min, sigma_max: lowest and highest noise level that it was trained on.
    """

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level."""
        return self.sigma_min, self.sigma_max

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        one = jnp.ones_like(sigma)
        return Coefficients(skip=one, out=sigma, inside=one, noise=jnp.log(sigma / 2))


@dataclasses.dataclass(frozen=True)
class IDDPM(NoiseWeight):
    """Improved DDPM's cosine table of noise levels (arXiv 2102.09672), which ADM is trained on.

    The network knows the levels of `core.noise_levels.cosine_table`,
    u_0 > ... > u_(M-1) by their numbers from the other end, ``M - 1 - j``. Channels of a learned
    variance come after those of the noise, where `Denoiser` drops them.

    Attributes:
        steps: M.
        least_ratio, offset: C_1 and C_2 of the table.
        round_sigma: tell the network the nearest of its levels, as published; False tells it the
            step in between, linear in ln sigma, which it was not trained on but varies smoothly.
    """

    steps: int = 1000
    least_ratio: float = 0.001
    offset: float = 0.008
    round_sigma: bool = True

    @property
    def levels(self) -> np.ndarray:
        """The noise levels u_0 to u_(M-1), decreasing, float64 ``[M]``."""
        return cosine_table(self.steps, self.least_ratio, self.offset)[:-1]

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of the table."""
        return float(self.levels[-1]), float(self.levels[0])

    def nearest(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the level of the table that is nearest to ``sigma``."""
        return jnp.asarray(self.levels[::-1].copy(), sigma.dtype)[self._step(sigma)]

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``, which itself is not rounded."""
        if self.round_sigma:
            noise = self._step(sigma).astype(sigma.dtype)
        else:
            rising = jnp.asarray(np.log(self.levels[::-1]), sigma.dtype)
            noise = jnp.interp(jnp.log(sigma), rising, jnp.arange(self.steps, dtype=sigma.dtype))
        return predicts_noise(sigma, 1 / jnp.sqrt(sigma**2 + 1), noise)

    def _step(self, sigma: Array) -> Array:
        rising = self.levels[::-1]
        return jnp.searchsorted(jnp.asarray((rising[1:] + rising[:-1]) / 2, sigma.dtype), sigma)
