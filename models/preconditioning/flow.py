"""Flows: networks of velocity, on the linear path and two others (SiT, arXiv 2401.08740).

A path joins data to noise, ``x_t = alpha(t) x0 + s(t) noise``, and the network predicts the
velocity ``d x_t / dt = alpha'(t) x0 + s'(t) noise``. The noise level fixes the time and the
scale, ``sigma = s / alpha`` and ``x_t = alpha x``, so conversions are exact, and linear in the
network's output.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.noise_levels import linear_sigma
from .diffusion import VP
from .edm import Coefficients

# How far from data and from pure noise networks are asked, as a share of the way between them:
# SiT's own margin, where its code needs one.
MARGIN = 1e-3
DIRECTIONS = ("to_data", "to_noise")
PROCESS = VP()


class Path(NamedTuple):
    """A path from data to noise, whose place is the share of the way and whose rest is 1 less it.

    Attributes:
        places: from a noise level to its place and rest.
        sigma: from a place and its rest to the noise level.
        coefficients: from a noise level and its place to c_skip, c_out and c_in, the velocity
            pointing towards the data.
        sigma_range: lowest and highest noise level that networks are asked at.
    """

    places: Callable[[Array], tuple[Array, Array]]
    sigma: Callable[[Array, Array], Array]
    coefficients: Callable[[Array, Array], tuple[Array, Array, Array]]
    sigma_range: tuple[float, float]


def _linear_places(sigma):
    rest = 1 / (1 + sigma)
    return sigma * rest, rest


def _linear_coefficients(sigma, place):
    del place
    alpha = 1 / (1 + sigma)
    return alpha, sigma * alpha, alpha


def _gvp_places(sigma):
    quarter = math.pi / 2
    return jnp.arctan(sigma) / quarter, jnp.arctan2(jnp.ones_like(sigma), sigma) / quarter


def _gvp_sigma(place, rest):
    return jnp.sin(math.pi / 2 * place) / jnp.sin(math.pi / 2 * rest)


def _gvp_coefficients(sigma, place):
    del place
    alpha = 1 / jnp.sqrt(1 + sigma**2)
    return alpha**2, 2 / math.pi * sigma * alpha, alpha


def _vp_places(sigma):
    place = PROCESS.time(sigma)
    return place, 1 - place


def _vp_sigma(place, rest):
    del rest
    return linear_sigma(jnp.asarray(place), PROCESS.beta_min, PROCESS.beta_d)


def _vp_coefficients(sigma, place):
    alpha = 1 / jnp.sqrt(1 + sigma**2)
    # Towards the data alpha' = alpha beta(place) / 2, and s' = -alpha alpha' / s.
    slope = alpha * (PROCESS.beta_d * place + PROCESS.beta_min) / 2
    return alpha**2, (sigma * alpha) ** 2 / slope, alpha


PATHS = {
    "linear": Path(
        _linear_places,
        lambda place, rest: place / rest,
        _linear_coefficients,
        (MARGIN / (1 - MARGIN), (1 - MARGIN) / MARGIN),
    ),
    "gvp": Path(
        _gvp_places,
        _gvp_sigma,
        _gvp_coefficients,
        (math.tan(math.pi / 2 * MARGIN), 1 / math.tan(math.pi / 2 * MARGIN)),
    ),
    # This path ends at a finite noise level, which networks know.
    "vp": Path(
        _vp_places,
        _vp_sigma,
        _vp_coefficients,
        dataclasses.replace(PROCESS, epsilon_t=MARGIN).sigma_range,
    ),
}


@dataclasses.dataclass(frozen=True)
class Flow:
    """Velocity prediction: ``D = c_skip x + c_out F(alpha x; t)``.

    With ``d = alpha s' - alpha' s``, solving x_t and the velocity for the data gives
    ``c_in = alpha``, ``c_skip = alpha s' / d`` and ``c_out = -s / d``; on the linear path that is
    ``D = x_t + (1 - t) F``.

    Attributes:
        path: "linear" (alpha = t, s = 1 - t), "gvp" (alpha = sin(pi t / 2), s = cos(pi t / 2)) or
            "vp" (alpha = exp(-(1 - t)^2 (20 - 0.1) / 4 - (1 - t) 0.1 / 2), s^2 = 1 - alpha^2).
        time: "to_data" where time 1 is the data (SiT, LightningDiT), "to_noise" where it is the
            noise (REPA, rectified flow): there the network is given ``1 - t``, and its velocity
            points the other way.
        time_scale: multiplies the time that the network is given; 1 for SiT.

    Raises:
        ValueError: an unknown path or direction, a time scale that is not above 0.

    Source: Ma et al., arXiv 2401.08740, sec. 2; the other direction: Yu et al., arXiv 2410.06940.
    """

    path: str = "linear"
    time: str = "to_data"
    time_scale: float = 1.0

    def __post_init__(self):
        choices = (("path", self.path, tuple(PATHS)), ("time", self.time, DIRECTIONS))
        for what, value, known in choices:
            if value not in known:
                raise ValueError(
                    f"flow preconditioner: {what} must be one of {', '.join(known)}, got {value!r}"
                )
        if not self.time_scale > 0:
            raise ValueError(f"flow preconditioner: time_scale {self.time_scale} is not above 0")

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels a thousandth of the way from data and from noise.

        0.0010 to 999 on the linear path, 0.0016 to 637 on gvp, 0.0105 to 152 on vp, whose own end
        that is. At the very ends nothing is lost: towards sigma 0 a network of velocity answers
        with its input, and pure noise has no finite sigma on the other two paths.
        """
        return PATHS[self.path].sigma_range

    def network_time(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the time that the network is given at noise level ``sigma``."""
        place, rest = PATHS[self.path].places(sigma)
        return self.time_scale * (rest if self.time == "to_data" else place)

    def sigma(self, network_time: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the noise level at a time that the network is given; inverse of it."""
        here = network_time / self.time_scale
        place, rest = (1 - here, here) if self.time == "to_data" else (here, 1 - here)
        return PATHS[self.path].sigma(place, rest)

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        path = PATHS[self.path]
        skip, out, inside = path.coefficients(sigma, path.places(sigma)[0])
        out = out if self.time == "to_data" else -out
        return Coefficients(skip, out, inside, self.network_time(sigma))

    def loss_weight(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return ``1 / c_out^2``: with it, the loss of x0 is that of the velocity."""
        return 1 / self.coefficients(sigma).out ** 2
