"""Priors: how a trajectory's first state comes from unit noise."""

import dataclasses
import math
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..core.part_types import PART_TYPES, PartType
from ..core.pytrees import pytree, static
from ..core.random import fold_each, keys_per_sample, normal_like
from ..core.registry import register
from .checks import Keys, positive
from .gaussian_fit import GaussianFit

STARTS = ("noise", "fit")
# Unit noise has a root mean square between these, however few numbers above `FEW` it has.
SMALL, LARGE, FEW = 0.2, 5.0, 64
# So many numbers are looked at.
LOOKED_AT = 2**20


@runtime_checkable
class Prior(Protocol):
    """Make first states; a pytree whose arrays are arguments of the compiled program."""

    def check(self, sigmas: np.ndarray, noise: Float[Array | np.ndarray, " batch *shape"]) -> None:
        """Refuse a schedule or samples that it cannot serve; on the host, before any tracing."""

    def __call__(
        self,
        noise: Float[Array | np.ndarray, " batch *shape"],
        sigma: Float[Array, ""],
        keys: Key[Array, " batch"],
        condition: Any = None,
    ) -> Float[Array, " batch *shape"]:
        """Return states at noise level ``sigma``.

        Args:
            noise: unit normal.
            sigma: the schedule's first noise level.
            keys: one a sample, for anything else that is drawn.
            condition: what the samples are conditioned on, as `samplers.sample` was given it.
        """


def _is_prior(value: Any) -> bool:
    check = callable(getattr(value, "check", None))
    return check and callable(value) and not isinstance(value, type)


PART_TYPES[Prior] = PartType("a prior", _is_prior)


def check_noise(owner: str, noise: Array, sigma: float) -> None:
    """Refuse noise that is clearly not of unit size, such as what a prior has made already.

    Below sigma 1, noise may be large: noised data divided by its noise level. Traced noise, and
    that of other processes, passes.

    Raises:
        ValueError: in the name of ``owner``.
    """
    if isinstance(noise, jax.core.Tracer) or not noise.is_fully_addressable or noise.size < FEW:
        return
    if noise.size > LOOKED_AT:
        noise = noise[: max(1, LOOKED_AT * noise.shape[0] // noise.size)]
    size = float(np.sqrt(np.mean(np.square(np.asarray(noise)))))
    if size < SMALL or (size > LARGE and sigma >= 1) or not math.isfinite(size):
        raise ValueError(
            f"samplers.{owner}: noise must be of unit size, and its root mean square is "
            f"{size:.3g}: give samplers.unit_noise(keys, shape) itself; it is multiplied with "
            f"sigmas[0] = {sigma:g} here"
        )


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Noise of standard deviation sigma around 0."""

    def check(self, sigmas, noise):
        """Serve any."""
        del sigmas, noise

    def __call__(self, noise, sigma, keys, condition=None):
        del keys, condition
        return noise * sigma


@register("prior")
def gaussian() -> Gaussian:
    """Return the prior of Gaussian diffusion, ``sigma * noise``."""
    return Gaussian()


@dataclasses.dataclass(frozen=True)
class VariancePreserving(Gaussian):
    """Noise as a variance-preserving process has it at its end, where data still counts."""

    def __call__(self, noise, sigma, keys, condition=None):
        del keys, condition
        return noise * jnp.sqrt(1 + sigma**2)


@register("prior")
def variance_preserving() -> VariancePreserving:
    """Return the prior ``sqrt(1 + sigma^2) * noise``, for data of unit variance.

    Unit noise taken for a state ``alpha x0 + sqrt(1 - alpha^2) noise`` of a variance-preserving
    process, as most samplers of latents begin: in ``x = x0 + sigma * noise`` that is the noise
    over alpha.
    """
    return VariancePreserving()


@pytree
class Pfgmpp:
    """Student-t noise around 0, whose tails are the heavier the smaller D."""

    D: float

    def check(self, sigmas, noise):
        """Serve any."""
        del sigmas, noise

    def __call__(self, noise, sigma, keys, condition=None):
        del condition
        return student_t(noise, sigma, self.D, keys)


@register("prior")
def pfgmpp(D: float) -> Pfgmpp:
    """Return the prior of Poisson flow PFGM++, ``sigma * noise * sqrt(D / chi^2_D)``.

    With N the samples' full flattened dimension, this is the perturbation kernel
    ``p_r(x) ~ (|x|^2 + r^2)^(-(N + D) / 2)`` at ``r = sigma sqrt(D)``: the multivariate Student-t
    distribution with D degrees of freedom and scale sigma. Aligned so, the flow is
    ``dx/dsigma = (x - D(x; sigma))/sigma`` as in Gaussian diffusion: schedules, solvers without
    noise and preconditioning carry over as they are, and the network alone, trained on
    `pfgmpp_kernel`, knows of D. Gaussian noise that a solver adds (churn, ancestral steps) does
    not lead from the kernel of one noise level to that of another unless D is infinite.

    Args:
        D: number of extra dimensions, above 0; as the network was trained. 1 is PFGM,
            ``math.inf`` Gaussian diffusion.

    Raises:
        ValueError: D not above 0.

    Source: Xu et al., arXiv 2302.04265.
    """
    return Pfgmpp(_dimensions("pfgmpp", D))


def pfgmpp_kernel(
    x0: Float[Array | np.ndarray, " batch *shape"],
    sigma: float | Float[Array, ""] | Float[Array, " batch"],
    D: float,
    key: Keys,
) -> Float[Array, " batch *shape"]:
    """Perturb data with the kernel of PFGM++, ``x0 + sigma * noise * sqrt(D / chi^2_D)``.

    What its networks are trained to denoise, with the loss and the distribution of noise levels
    of Gaussian diffusion.

    Args:
        x0: clean samples.
        sigma: noise level, one or one a sample.
        D: number of extra dimensions, above 0; ``math.inf`` adds Gaussian noise.
        key: one key, from which sample i takes ``fold_in(key, i)``, or one key a sample.

    Raises:
        ValueError: D not above 0, or another number of keys or noise levels than of samples.

    Source: Xu et al., arXiv 2302.04265.
    """
    D = _dimensions("pfgmpp_kernel", D)
    x0 = jnp.asarray(x0)
    sigma = jnp.asarray(sigma, x0.dtype)
    if sigma.shape not in ((), x0.shape[:1]):
        raise ValueError(
            f"samplers.pfgmpp_kernel: sigma must be one noise level or one per sample "
            f"({x0.shape[0]}), got shape {sigma.shape}"
        )
    keys = keys_per_sample("samplers.pfgmpp_kernel", key, x0.shape[0])
    noise = normal_like(fold_each(keys, 1), x0)
    return x0 + student_t(noise, _like(sigma, x0), D, keys)


def student_t(
    noise: Float[Array | np.ndarray, " batch *shape"],
    sigma: Array | float,
    D: float | Float[Array, ""],
    keys: Key[Array, " batch"],
) -> Float[Array, " batch *shape"]:
    """Return ``sigma * noise * sqrt(D / chi^2_D)``, one draw of chi^2 a sample.

    The same law as a radius ``sigma sqrt(D b / (1 - b))``, b of the beta distribution with
    parameters N/2 and D/2, in a uniform direction; this form never has to resolve ``1 - b``.
    """
    D = jnp.asarray(D, noise.dtype)
    infinite = jnp.isinf(D)
    half = jnp.where(infinite, 1, D) / 2  # the rejection sampler would never accept
    # chi^2_D is twice a gamma variable; its logarithm neither under- nor overflows.
    log_gamma = jax.vmap(lambda key: jax.random.loggamma(key, half, (), noise.dtype))(keys)
    wider = jnp.where(infinite, 1, jnp.exp((jnp.log(half) - log_gamma) / 2))
    return jnp.asarray(noise) * sigma * _like(wider, noise)


def _like(numbers: Array, samples: Array | np.ndarray) -> Array:
    """Let one number a sample, or one alone, be multiplied with samples."""
    return numbers.reshape(numbers.shape + (1,) * (samples.ndim - 1)) if numbers.ndim else numbers


def _dimensions(owner: str, D: float) -> float:
    if not isinstance(D, Real) or not D > 0:
        raise ValueError(
            f"samplers.{owner}: D must be a plain number above 0, got {D}; math.inf is Gaussian "
            f"diffusion"
        )
    return float(D)


@pytree
class Teleport:
    """The closed-form flow of Gaussian data, from ``sigma_max`` to the schedule's first level."""

    fit: GaussianFit
    sigma_max: float
    start: str = static(default="noise")

    def check(self, sigmas, noise):
        """Refuse samples of another shape than the fit's, and schedules above ``sigma_max``.

        Raises:
            ValueError: one of these.
        """
        if noise.shape[1:] != self.fit.shape:
            raise ValueError(
                f"samplers.teleport: the fit is of samples of shape {self.fit.shape}, not "
                f"{noise.shape[1:]}: fit the data that is sampled, samplers.fit_gaussian(data)"
            )
        # Schedules are computed in float64 and meet their own ends up to rounding.
        if sigmas[0] > self.sigma_max * (1 + 1e-6):
            raise ValueError(
                f"samplers.teleport: the schedule starts at sigma {sigmas[0]:g}, above sigma_max="
                f"{self.sigma_max:g}, from where it is jumped down to: start the schedule lower, "
                f"at the level that the jump is to reach"
            )

    def __call__(self, noise, sigma, keys, condition=None):
        del keys
        top = jnp.asarray(self.sigma_max, noise.dtype)
        x = noise * top if self.start == "noise" else self.fit.draw(noise, top, condition)
        return self.fit.jump(x, top, sigma, condition)


@register("prior")
def teleport(
    fit: GaussianFit | str | Path, sigma_max: float = 80.0, start: str = "noise"
) -> Teleport:
    """Return the prior that jumps to the schedule's first sigma along the flow of a Gaussian.

    ``x = mu + U diag(sqrt((c^2 + sigma^2)/(c^2 + sigma_max^2))) U^T (x_max - mu)``: at high noise
    levels the flow of any data is nearly that of the Gaussian with its mean and covariance, so the
    steps there are saved, with no network evaluated. Begin the schedule at the level to jump to,
    ``karras(steps, sigma_max=20.0)``; `GaussianFit.error` shows where the Gaussian is close
    enough. A multistep solver begins there without history. A fit by class needs the labels as
    the condition; one of all data serves a conditional run less well.

    Args:
        fit: of the data sampled (`fit_gaussian`), or the path of a file that its ``save`` wrote.
        sigma_max: the noise level jumped from, in sigma.
        start: ``noise`` starts from ``noise * sigma_max``, as an undisturbed run does; ``fit``
            from the Gaussian's own distribution there, ``N(mu, Sigma + sigma_max^2)``.

    Raises:
        ValueError: a sigma_max not above 0, another start, or a file that holds no fit.

    Source: Wang and Vastola, arXiv 2412.09726.
    """
    positive("teleport", sigma_max=sigma_max)
    if start not in STARTS:
        raise ValueError(f"samplers.teleport: start is {' or '.join(STARTS)}, got {start!r}")
    if not isinstance(fit, GaussianFit):
        fit = GaussianFit.load(fit)
    return Teleport(fit, float(sigma_max), start)
