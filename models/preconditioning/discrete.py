"""Discrete-time diffusion: what DDPM's descendants are trained for (arXiv 2006.11239).

DiT and PixArt-alpha take the index of a step of a table of noise levels and predict the noise;
others predict the velocity of Salimans and Ho (arXiv 2202.00512).
"""

import dataclasses
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.noise_levels import BETAS, cosine_table, table_log_alpha_bar
from ...core.pytrees import Constant
from .diffusion import predicts_noise
from .edm import Coefficients

NAMED = (*BETAS, "cosine")
PREDICTIONS = ("noise", "velocity")


class Steps:
    """Times that count the steps of a table of noise levels, and what is predicted at them.

    A subclass has the fields ``whole`` and ``predicts``, and the table.
    """

    whole: bool
    predicts: str

    @property
    def log_sigmas(self) -> np.ndarray:
        """The table, ``log sigma_j`` rising, float64 ``[steps]``."""
        raise NotImplementedError

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of the table; 0.0100 and 157 of DiT's."""
        table = self.log_sigmas
        return float(np.exp(table[0])), float(np.exp(table[-1]))

    def network_time(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the index of the step with noise level ``sigma``, from 0 to ``steps - 1``."""
        table = jnp.asarray(self.log_sigmas)
        index = jnp.interp(jnp.log(sigma), table, jnp.arange(len(table), dtype=table.dtype))
        return jnp.round(index) if self.whole else index

    def sigma(self, network_time: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the noise level at a step's index, whole or between two; inverse of it."""
        table = jnp.asarray(self.log_sigmas)
        return jnp.exp(jnp.interp(network_time, jnp.arange(len(table), dtype=table.dtype), table))

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        inside, time = 1 / jnp.sqrt(1 + sigma**2), self.network_time(sigma)
        if self.predicts == "velocity":
            return Coefficients(skip=inside**2, out=-sigma * inside, inside=inside, noise=time)
        return predicts_noise(sigma, inside, time)

    def loss_weight(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return ``1 / c_out^2``: with it, the loss of x0 is that of what the network predicts."""
        return 1 / self.coefficients(sigma).out ** 2

    def _require_prediction(self, owner: str) -> None:
        if self.predicts not in PREDICTIONS:
            raise ValueError(
                f"{owner}: predicts must be one of {', '.join(PREDICTIONS)}, got {self.predicts!r}"
            )


@dataclasses.dataclass(frozen=True)
class Discrete(Steps):
    """Prediction on a table of steps: ``D(x; sigma) = x - sigma F(c_in x; step)`` of noise.

    Of velocity, ``v = c_in (noise - sigma x0)``, it is ``D = c_in (c_in x - sigma F)``.

    ``sigma_j^2 = 1 / alpha_bar_j - 1`` with ``alpha_bar_j = prod_(i<=j) (1 - beta_i)`` and
    ``c_in = 1 / sqrt(1 + sigma^2)``. Between two steps of the table, and of a noise level between
    two of its, the index is interpolated in log sigma; beyond the table it stays at its ends.

    Attributes:
        beta_start, beta_end: the first and the last beta.
        steps: their number.
        betas: "linear"; "scaled_linear" for betas whose square roots are evenly spaced (the first
            version of Stable Diffusion); "cosine" for the table of `IDDPM`, which has no first and
            last beta of its choice.
        whole: round the index to a whole step, for a network that knows no others.
        predicts: "noise", or "velocity".

    Raises:
        ValueError: numbers that make no table, unknown betas, another prediction.

    Source: Ho et al., arXiv 2006.11239, sec. 2 and 4, in the coordinates of Karras et al., arXiv
    2206.00364, table 1, column iDDPM.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000
    betas: str = "linear"
    whole: bool = False
    predicts: str = "noise"

    def __post_init__(self):
        self._require_prediction("discrete preconditioner")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"discrete preconditioner: need 0 < beta_start <= beta_end < 1, got "
                f"{self.beta_start} and {self.beta_end}"
            )
        if self.betas not in NAMED:
            raise ValueError(
                f"discrete preconditioner: betas must be one of {', '.join(NAMED)}, got "
                f"{self.betas!r}"
            )
        if self.betas == "cosine" and (self.beta_start, self.beta_end) != (1e-4, 0.02):
            raise ValueError(
                "discrete preconditioner: the cosine table has betas of its own: leave beta_start "
                "and beta_end out"
            )
        if self.steps < 2:
            raise ValueError(f"discrete preconditioner: need 2 steps or more, got {self.steps}")

    @property
    def log_sigmas(self) -> np.ndarray:
        """The table, ``log sigma_j`` rising, float64 ``[steps]``."""
        return _log_sigmas(self.beta_start, self.beta_end, self.steps, self.betas)


@dataclasses.dataclass(frozen=True)
class Table(Steps):
    """Prediction on any table of steps, as `Discrete` on those of named betas.

    Attributes:
        alphas_cumprod: ``alpha_bar_j`` of every step, falling, ``[steps]``.
        whole, predicts: as of `Discrete`.

    Raises:
        ValueError: no falling table of two numbers or more between 0 and 1; another prediction.
    """

    alphas_cumprod: Constant
    whole: bool = False
    predicts: str = "noise"

    def __post_init__(self):
        table = self.alphas_cumprod.value
        self._require_prediction("table of steps")
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"alphas_cumprod is a list of 2 numbers or more, got {table.shape}")
        if not (np.all(np.isfinite(table)) and np.all((table > 0) & (table < 1))):
            raise ValueError(
                f"alphas_cumprod lie between 0 and 1, got {table.min():g} to {table.max():g}: "
                f"leave out a step without noise, or one of noise alone, which has no finite sigma"
            )
        if not np.all(np.diff(table) < 0):
            raise ValueError("alphas_cumprod must fall from one step to the next")

    @property
    def log_sigmas(self) -> np.ndarray:
        """The table, ``log sigma_j`` rising, float64 ``[steps]``."""
        table = self.alphas_cumprod.value
        return (np.log1p(-table) - np.log(table)) / 2


@lru_cache(maxsize=16)
def _log_sigmas(beta_start: float, beta_end: float, steps: int, betas: str) -> np.ndarray:
    """Return ``log sigma_j`` of a table, float64 ``[steps]``."""
    if betas == "cosine":
        return np.log(cosine_table(steps)[-2::-1])
    log_alpha_bar = table_log_alpha_bar(beta_start, beta_end, steps, betas)
    return np.log(np.expm1(-log_alpha_bar)) / 2
