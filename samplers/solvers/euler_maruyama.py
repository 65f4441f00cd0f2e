"""Euler-Maruyama steps of a path's reverse SDEs, in the path's own time (SiT, arXiv 2401.08740)."""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ...core.noise_levels import BETA_MAX, BETA_MIN, flow_time, vp_sigma, vp_time
from ...core.pytrees import pytree, static
from ...core.registry import register
from ..checks import plain
from .solver import Kernel, direction


class Place(NamedTuple):
    """Where a path ``signal x0 + noise z`` is at noise levels ``sigma = noise/signal``.

    Attributes:
        time: 0 at the data and 1 at pure noise; the noise level itself on the path "sigma".
        signal, noise: weights of data and of noise.
        signal_rate, noise_rate: how fast they change as time falls; infinite noise_rate at the
            end of the path "vp".
    """

    time: Float[np.ndarray, " levels"]
    signal: Float[np.ndarray, " levels"]
    noise: Float[np.ndarray, " levels"]
    signal_rate: Float[np.ndarray, " levels"]
    noise_rate: Float[np.ndarray, " levels"]


def _linear(sigma):
    time = flow_time(sigma)
    return Place(time, 1 - time, time, np.ones_like(time), -np.ones_like(time))


def _gvp(sigma):
    signal, rate = 1 / np.hypot(1, sigma), math.pi / 2
    time, noise = np.arctan(sigma) / rate, sigma * signal
    return Place(time, signal, noise, rate * noise, -rate * signal)


def _vp(sigma):
    signal, time = 1 / np.hypot(1, sigma), vp_time(sigma)
    rate = (BETA_MIN + (BETA_MAX - BETA_MIN) * time) / 2
    with np.errstate(divide="ignore"):
        return Place(time, signal, sigma * signal, rate * signal, -rate * signal / sigma)


def _sigma(sigma):
    return Place(sigma, np.ones_like(sigma), sigma, np.zeros_like(sigma), -np.ones_like(sigma))


PATHS: dict[str, Callable[[np.ndarray], Place]] = {
    "linear": _linear,
    "gvp": _gvp,
    "vp": _vp,
    "sigma": _sigma,
}

# w at a place, given a norm.
DIFFUSIONS: dict[str, Callable[[Place, float], np.ndarray]] = {
    "zero": lambda at, norm: np.zeros_like(at.time),
    "constant": lambda at, norm: norm * np.ones_like(at.time),
    "sbdm": lambda at, norm: (
        2 * norm * at.noise * (at.noise * at.signal_rate / at.signal - at.noise_rate)
    ),
    "sigma": lambda at, norm: norm * at.noise,
    "linear": lambda at, norm: norm * at.time,
    "decreasing": lambda at, norm: (1 - norm * np.cos(math.pi * at.time)) ** 2 / 4,
    "increasing-decreasing": lambda at, norm: norm * np.sin(math.pi * at.time) ** 2,
}
# Written in a time that runs from 0 to 1, which the path "sigma" has not.
TIMED = ("linear", "decreasing", "increasing-decreasing")
LASTS = ("tweedie", "mean", "euler")


class Table(NamedTuple):
    """A step's constants: of the prediction, of the noise direction and of fresh noise."""

    answer: Float[Array | np.ndarray, " *steps"]
    keep: Float[Array | np.ndarray, " *steps"]
    noise: Float[Array | np.ndarray, " *steps"]


@pytree
class EulerMaruyama(Kernel):
    """One evaluation a step; first order, weakly so with noise.

    Attributes:
        norm: factor of the noise's variance.
        diffusion, path, last: names in `DIFFUSIONS`, `PATHS` and `LASTS`.
    """

    order: ClassVar[int] = 1
    norm: float
    diffusion: str = static()
    path: str = static()
    last: str = static()

    def tables(self, sigmas):
        """Return each step's `Table`.

        Raises:
            ValueError: the path does not reach the first noise level, or the first step from
                there would make its noise grow.
        """
        # A schedule that begins at the path's end may lie above it by numpy's last bits.
        if self.path == "vp" and sigmas[0] > vp_sigma(1.0) * (1 + 1e-12):
            raise ValueError(
                f"samplers.euler_maruyama: the path 'vp' ends at sigma {vp_sigma(1.0):.4g}, below "
                f"the schedule's first, {sigmas[0]:g}: lower the schedule's sigma_max, or take "
                f"another path"
            )
        places = PATHS[self.path](sigmas)
        at, to = (Place(*(value[part] for value in places)) for part in (np.s_[:-1], np.s_[1:]))
        dt, w = at.time - to.time, DIFFUSIONS[self.diffusion](at, self.norm)
        final = to.time == 0
        w = np.where(final & (self.last == "euler"), 0, w)
        removed = dt * w / (2 * at.noise)
        if not final[0] and removed[0] > 2 * to.noise[0]:
            raise ValueError(
                f"samplers.euler_maruyama: the first step, from sigma {sigmas[0]:g} to "
                f"{sigmas[1]:g}, is too long for the diffusion {self.diffusion!r}, and would make "
                f"the noise it should remove grow: start at a lower sigma, or take a schedule with "
                f"shorter steps there, such as samplers.karras, or more steps"
            )
        # The state between steps is the path's divided by its signal.
        answer = (at.signal + dt * at.signal_rate) / to.signal
        keep = (at.noise + dt * at.noise_rate - removed) / to.signal
        noise = np.where(final, 0, np.sqrt(dt * w)) / to.signal
        if self.last == "tweedie":
            answer, keep = np.where(final, 1, answer), np.where(final, 0, keep)
        return Table(answer, keep, noise)

    @property
    def random(self) -> bool:
        """Whether the diffusion is not 0."""
        return self.diffusion != "zero" and bool(self.norm > 0)

    def transition(self, x, guided, interval):
        table = interval.table
        keeps = table.keep * direction(x, guided, interval.start)
        return table.answer * guided.denoised + keeps, table.noise


@register("solver")
def euler_maruyama(
    diffusion: str = "sigma", norm: float = 1.0, path: str = "linear", last: str = "tweedie"
) -> EulerMaruyama:
    """Return Euler-Maruyama steps of ``dX = (v + w s/2) dt + sqrt(w) dW``, towards the data.

    v is the velocity and s the score of ``X = a x0 + b z`` in the path's time t, 1 at noise; the
    schedule's noise levels ``b/a`` are converted to it, and X to and from EDM's x. All w >= 0 have
    the same marginals. Uniform steps of time are those of `flow`.

    Args:
        diffusion: w. "zero" (Euler's method in t), "constant" (norm), "sigma" (norm b), "sbdm"
            (norm times that of the forward process: ``2 b (b a'/a - b')``, ' towards the data; on
            the linear path ``2 t/(1 - t)``), "linear" (norm t), "decreasing"
            (``(1 - norm cos(pi t))^2/4``), "increasing-decreasing" (``norm sin^2(pi t)``). SiT's
            code names w/2 and not w, so its norm is half of this one, and the same for sbdm.
        norm: factor of w.
        path: "linear" (1 - t, t), "gvp" (cos, sin of pi t/2), "vp" (the standard
            variance-preserving process) or "sigma" (x itself, in sigma).
        last: the step to 0, always without noise. "tweedie" returns the prediction, "mean" takes
            the step's drift, "euler" the velocity alone.

    Raises:
        ValueError: unknown names, norm negative or not finite, or a diffusion that needs a time
            from 0 to 1 on the path "sigma"; when sampling, a first noise level that the path does
            not reach, or, since some w grow without bound towards pure noise, a first step that
            is too long.

    Source: Ma et al., arXiv 2401.08740, section 2.
    """
    for name, value, known in (
        ("diffusion", diffusion, DIFFUSIONS),
        ("path", path, PATHS),
        ("last", last, LASTS),
    ):
        if value not in known:
            raise ValueError(
                f"samplers.euler_maruyama: {name} must be one of {', '.join(known)}, got {value!r}"
            )
    plain("euler_maruyama", norm=norm)
    if norm < 0:
        raise ValueError(
            f"samplers.euler_maruyama: need norm >= 0, got {norm}; diffusion='zero' adds no noise"
        )
    if path == "sigma" and diffusion in TIMED:
        raise ValueError(
            f"samplers.euler_maruyama: the diffusion {diffusion!r} is written in a time from 0 to "
            f"1, which path='sigma' has not: take another path, or 'sigma' or 'sbdm' for diffusion"
        )
    return EulerMaruyama(float(norm), diffusion, path, last)
