"""How often each noise level is trained: distributions of sigma, each by its quantile function.

A distribution is a frozen dataclass with ``quantile(share) -> sigma``, increasing: at share 0.5 it
gives the median. One uniform number a sample draws from it, and a part of training (the hardest
tenth, one of five clusters) is a range of shares, whatever the distribution.

The noise levels are EDM's, ``x = x0 + sigma * noise``; times of other processes are turned into
them here.
"""

import dataclasses
import functools
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Key

from ...core.noise_levels import cosine_table, log_snr_sigma
from ...core.registry import register
from ...models.preconditioning.flow import PATHS
from ...samplers import vp_discrete

WHOLE = (0.0, 1.0)
HALF_CELL = 2.0**-24


@runtime_checkable
class Noise(Protocol):
    """A distribution of noise levels."""

    def quantile(self, share: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the sigma below which ``share`` of the draws lie, ``share`` in (0, 1)."""


def draw(noise: Noise, keys: Key[Array, " batch"], span: tuple = WHOLE) -> Float[Array, " batch"]:
    """Draw one noise level a sample from a part of a distribution.

    Args:
        noise: the distribution.
        keys: one a sample.
        span: shares of the distribution between which to draw, ``(0, 1)`` being all of it; each
            end one number, or one a sample.
    """
    # Rounding must not make a share 0 or 1, whose quantiles are infinite.
    return noise.quantile(jnp.clip(shares(keys, span), HALF_CELL, 1 - HALF_CELL))


def shares(keys: Key[Array, " batch"], span: tuple = WHOLE) -> Float[Array, " batch"]:
    """Draw one share a sample, evenly between the two of ``span``.

    Drawn numbers are the lower ends of 2^23 equal cells. Their middles, which these are, are never
    0 or 1.
    """
    low, high = span
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
    return low + (high - low) * (uniform + HALF_CELL)


@dataclasses.dataclass(frozen=True)
class LogNormal:
    """``ln(sigma)`` normally distributed."""

    mean: float
    std: float

    def quantile(self, share):
        return jnp.exp(self.mean + self.std * ndtri(share))


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """``ln(sigma)`` uniform between two ends."""

    low: float
    high: float

    def quantile(self, share):
        return self.low * jnp.exp(math.log(self.high / self.low) * jnp.asarray(share))


@dataclasses.dataclass(frozen=True)
class KarrasTimes:
    """``sigma^(1/rho)`` uniform, between two shares of the way from its lowest to its highest.

    Attributes:
        sigma_min, sigma_max, rho: of the schedule.
        low, high: the shares.
    """

    sigma_min: float
    sigma_max: float
    rho: float
    low: float
    high: float

    def quantile(self, share):
        bottom, top = (end ** (1 / self.rho) for end in (self.sigma_min, self.sigma_max))
        time = self.low + (self.high - self.low) * jnp.asarray(share)
        return (bottom + (top - bottom) * time) ** self.rho


@dataclasses.dataclass(frozen=True)
class UniformTime:
    """Time uniform between two ends of a path, 1 being noise.

    Attributes:
        path: one of `PATHS`.
        low, high: times.
    """

    path: str
    low: float
    high: float

    def quantile(self, share):
        time = self.low + (self.high - self.low) * jnp.asarray(share)
        return PATHS[self.path].sigma(time, 1 - time)


@dataclasses.dataclass(frozen=True)
class Levels:
    """Each of a table's noise levels equally often.

    Attributes:
        sigmas: increasing.
    """

    sigmas: tuple[float, ...]

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The noise levels, float32."""
        return np.asarray(self.sigmas, np.float32)

    def index(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the place in the table of the level nearest to ``sigma`` in ratio."""
        between = np.sqrt(self.table[1:] * self.table[:-1])
        return jnp.searchsorted(jnp.asarray(between), sigma)

    def quantile(self, share):
        count = len(self.sigmas)
        place = jnp.floor(jnp.asarray(share) * count).astype(jnp.int32)
        return jnp.asarray(self.table)[jnp.clip(place, 0, count - 1)]


@register("noise", "2206.00364")
def log_normal(mean: float = -1.2, std: float = 1.2) -> LogNormal:
    """Return ``ln(sigma) ~ N(mean, std^2)``; the defaults are EDM's.

    EDM2 uses -0.4 and 1.0 for 512x512 latents, -0.8 and 1.6 for 64x64 pixels.

    Raises:
        ValueError: a std below 0.

    Source: Karras et al., arXiv 2206.00364, Table 1; arXiv 2312.02696.
    """
    if not std >= 0:
        raise ValueError(f"log_normal: std {std} is the spread of ln(sigma): 0 or more")
    return LogNormal(float(mean), float(std))


@register("noise", "2011.13456")
def log_uniform(low: float = 0.02, high: float = 100.0) -> LogUniform:
    """Return ``ln(sigma)`` uniform, as variance-exploding diffusion is trained.

    Raises:
        ValueError: ends that are not increasing, or not above 0.

    Source: Song et al., arXiv 2011.13456; Karras et al., arXiv 2206.00364, Table 1, column VE.
    """
    if not 0 < low < high:
        raise ValueError(f"log_uniform: need 0 < low < high in sigma, got {low} and {high}")
    return LogUniform(float(low), float(high))


@register("noise", "2311.18828")
def karras_times(
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    low: float = 0.02,
    high: float = 0.98,
) -> KarrasTimes:
    """Return the time of Karras' schedule uniform between two ends, 1 being the highest level.

    DMD judges its samples at the levels of 1000 such steps, the first and last 2 % left out; SiD
    up to time 0.8, sigma 24.4.

    Args:
        sigma_min, sigma_max, rho: as of `samplers.karras`.
        low, high: times from 0 to 1.

    Raises:
        ValueError: ends that are not increasing, or a number out of range.

    Source: Yin et al., arXiv 2311.18828; Zhou et al., arXiv 2404.04057.
    """
    if not (0 < sigma_min < sigma_max and rho > 0):
        raise ValueError(
            f"karras_times: need 0 < sigma_min < sigma_max and rho above 0, got {sigma_min}, "
            f"{sigma_max} and {rho}"
        )
    if not 0 <= low < high <= 1:
        raise ValueError(f"karras_times: need times 0 <= low < high <= 1, got {low} and {high}")
    return KarrasTimes(*map(float, (sigma_min, sigma_max, rho, low, high)))


@register("noise", "2011.13456")
def vp_times(low: float = 1e-5, high: float = 1.0) -> UniformTime:
    """Return time uniform in variance-preserving diffusion with beta from 0.1 to 20.

    With ``low=0`` this is SiT's VP path too.

    Raises:
        ValueError: ends that are no times in order.

    Source: Song et al., arXiv 2011.13456; Karras et al., arXiv 2206.00364, Table 1, column VP.
    """
    return _uniform_time("vp_times", "vp", low, high)


@register("noise", "2401.08740")
def flow_times(path: str = "linear", low: float = 0.0, high: float = 1.0) -> UniformTime:
    """Return time uniform along a flow's path, time 1 being noise.

    ``linear`` is ``(1 - t) x0 + t noise``; ``gvp`` is ``cos(pi t/2) x0 + sin(pi t/2) noise``;
    ``vp`` is the path of variance-preserving diffusion. SiT's own time runs the other way.

    Raises:
        ValueError: an unknown path, or ends that are no times in order.

    Source: Ma et al., arXiv 2401.08740.
    """
    return _uniform_time("flow_times", path, low, high)


@register("noise", "2403.03206")
def logit_normal(mean: float = 0.0, std: float = 1.0, shift: float = 1.0) -> LogNormal:
    """Return flow time ``t = sigmoid(mean + std n)``, shifted, along ``(1 - t) x0 + t noise``.

    As ``sigma = t / (1 - t)``, this is a log-normal distribution of sigma, and the shift
    ``t' = shift t / (1 + (shift - 1) t)`` multiplies it: more than 1 trains more at high noise.
    Where time 1 is data (LightningDiT), ``mean`` changes its sign and ``shift`` is inverted.

    Raises:
        ValueError: a std below 0 or a shift not above 0.

    Source: Esser et al., arXiv 2403.03206; the shift is its eq. 23.
    """
    if not (std >= 0 and shift > 0):
        raise ValueError(f"logit_normal: std is 0 or more and shift above 0, got {std} and {shift}")
    return LogNormal(float(mean) + math.log(shift), float(std))


@register("noise", "2107.00630")
def log_snr_uniform(low: float = -20.0, high: float = 20.0) -> LogUniform:
    """Return the log-SNR, ``-2 ln(sigma)``, uniform between two ends.

    Raises:
        ValueError: ends that are not increasing.

    Source: Kingma et al., arXiv 2107.00630.
    """
    if not low < high:
        raise ValueError(f"log_snr_uniform: need low < high, got {low} and {high}")
    return LogUniform(float(log_snr_sigma(high)), float(log_snr_sigma(low)))


@register("noise", "2006.11239")
def discrete(
    beta_start: float = 1e-4, beta_end: float = 0.02, betas: str = "linear", table: int = 1000
) -> Levels:
    """Return each step of a DDPM table equally often: how DiT and ADM on it are trained.

    Args:
        beta_start, beta_end, betas, table: see `samplers.vp_discrete`.

    Raises:
        ValueError: a table that is none.

    Source: Ho et al., arXiv 2006.11239, section 4.
    """
    falling = vp_discrete(table, "leading", beta_start, beta_end, betas, table, final_zero=False)
    return Levels(tuple(falling[::-1].tolist()))


@register("noise", "2102.09672")
def iddpm_levels() -> Levels:
    """Return each of the 1000 levels of improved DDPM's cosine table equally often.

    Source: Karras et al., arXiv 2206.00364, Table 1, column iDDPM.
    """
    return Levels(tuple(cosine_table()[:-1][::-1].tolist()))


def _uniform_time(owner: str, path: str, low: float, high: float) -> UniformTime:
    if path not in PATHS:
        raise ValueError(f"{owner}: path {path!r} is not one of {', '.join(PATHS)}")
    if not 0 <= low < high <= 1:
        raise ValueError(f"{owner}: need times 0 <= low < high <= 1, got {low} and {high}")
    return UniformTime(path, float(low), float(high))
