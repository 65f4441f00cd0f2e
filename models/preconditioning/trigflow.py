"""TrigFlow: consistency functions in an angle between data and noise."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from .edm import EDM, Coefficients

NETWORKS = ("trigflow", "edm")


@dataclasses.dataclass(frozen=True)
class TrigFlow:
    """Preconditioning whose network is a consistency function, ``f(x, 0) = x``.

    With the angle ``tan(a) = sigma / sigma_data`` and ``y = cos(a) x``, which has the data's size
    at every angle: ``f = cos(a) y - sin(a) sigma_data F(y / sigma_data; a)``. The angle is the one
    time in which the derivative along the flow stays bounded, which `scm` trains by.

    Attributes:
        sigma_data: standard deviation of the data, in the data's units.
        network: ``trigflow``, whose output points to the noise and whose time is the angle; or
            ``edm``, whose output and time are EDM's, so that a pretrained network of EDM's
            preconditioning begins as one of this.
        noise_scale: multiplies the time that the network is given. Large ones make tangents large:
            what is trained from scratch wants about 1.

    Raises:
        ValueError: another network.

    Source: Lu & Song, arXiv 2410.11081, sec. 3.
    """

    estimate: ClassVar[str] = "consistency"
    sigma_min: ClassVar[float] = 0.0
    sigma_data: float = 0.5
    network: str = "trigflow"
    noise_scale: float = 1.0

    def __post_init__(self):
        if self.network not in NETWORKS:
            raise ValueError(
                f"trigflow preconditioner: network must be one of {', '.join(NETWORKS)}, got "
                f"{self.network!r}"
            )

    def angle(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the angle of a noise level, from 0 to pi / 2."""
        return jnp.arctan(sigma / self.sigma_data)

    def network_time(self, angle: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the time that the network is given at an angle."""
        if self.network == "edm":
            return self.noise_scale * jnp.log(self.sigma_data * jnp.tan(angle)) / 4
        return self.noise_scale * angle

    @property
    def sign(self) -> float:
        """What turns the network's output into ``F``: its direction is the noise's."""
        return -1.0 if self.network == "edm" else 1.0

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at ``sigma``."""
        plain = EDM(self.sigma_data, self.noise_scale).coefficients(sigma)
        if self.network == "edm":
            return plain
        return plain._replace(out=-plain.out, noise=self.network_time(self.angle(sigma)))
