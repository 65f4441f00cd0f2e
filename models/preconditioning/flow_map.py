"""Flow maps: networks that are told a second noise level, and jump to it along the flow."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.noise_levels import flow_time
from ..scalar_inputs import ScalarInput
from .edm import EDM, Coefficients
from .flow import Flow

NETWORKS = ("flow", "edm")


@dataclasses.dataclass(frozen=True)
class FlowMap:
    """Preconditioning of ``g(x, sigma, to)``, the x0 on the straight line to a place on the flow.

    The flow's place at the noise level ``to`` is ``(to/sigma) x + (1 - to/sigma) g``; at
    ``to = sigma`` g is the denoiser's answer. On the linear path ``z = (1 - t) x0 + t noise``,
    where ``z = (1 - t) x`` and ``t = sigma / (1 + sigma)``, it is ``g = z - t u`` with the average
    velocity ``u(z, t, r) = (z_t - z_r) / (t - r)``, which `mean_flow` and `shortcut` train. The
    network has an input ``to``, the interval ``t - r``, beside its time; the layer of it begins at
    zero, so that a pretrained denoiser begins as the map whose velocity is the same everywhere.

    Attributes:
        network: ``flow``, whose output is u and whose time is t; or ``edm``, whose output and time
            are EDM's, so that a network of EDM's preconditioning begins as one of this.
        sigma_data: of EDM's.
        noise_scale: multiplies the time that the network is given.
        interval_scale: multiplies the interval before its sinusoids. Large ones tell short
            intervals apart (shortcut models: 1000) and make tangents large (MeanFlow).

    Raises:
        ValueError: another network, or a scale that is not above 0.

    Source: Kim et al., arXiv 2310.02279, eq. 9; Geng et al., arXiv 2505.13447, eq. 3.
    """

    estimate: ClassVar[str] = "flow_map"
    network: str = "flow"
    sigma_data: float = 0.5
    noise_scale: float = 1.0
    interval_scale: float = 10.0

    def __post_init__(self):
        if self.network not in NETWORKS:
            raise ValueError(
                f"flow_map preconditioner: network must be one of {', '.join(NETWORKS)}, got "
                f"{self.network!r}"
            )
        for name in ("sigma_data", "noise_scale", "interval_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"flow_map preconditioner: {name} is above 0")

    @property
    def base(self) -> EDM | Flow:
        """The preconditioner of the denoiser that it is at ``to = sigma``."""
        if self.network == "edm":
            return EDM(self.sigma_data, self.noise_scale)
        return Flow("linear", "to_noise", self.noise_scale)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of networks that say nothing else."""
        return getattr(self.base, "sigma_range", (0.002, 80.0))

    @property
    def interval_input(self) -> ScalarInput:
        """The input ``to`` of the network: an interval of flow time."""
        return ScalarInput(0.0, 1.0, self.interval_scale)

    def interval(self, sigma: Float[Array, "..."], to: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the interval of flow time between two noise levels."""
        return jnp.asarray(flow_time(sigma)) - jnp.asarray(flow_time(to))

    def coefficients(self, sigma: Float[Array, "..."]) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise of g at ``sigma``."""
        return self.base.coefficients(sigma)

    def velocity(self, time: Float[Array, "..."]) -> Coefficients:
        """Return those of the average velocity, ``u = c_skip z + c_out F(c_in z; c_noise)``.

        Args:
            time: flow time t, in (0, 1).
        """
        if self.network == "flow":
            one = jnp.ones_like(time)
            return Coefficients(jnp.zeros_like(time), one, one, self.noise_scale * time)
        # EDM's g in u = (z - g) / t, with the divisions by t and 1 - t carried out.
        rest = 1 - time
        total = time**2 + (self.sigma_data * rest) ** 2
        root = jnp.sqrt(total)
        return Coefficients(
            skip=(time - self.sigma_data**2 * rest) / total,
            out=-self.sigma_data / root,
            inside=1 / root,
            noise=self.noise_scale * jnp.log(time / rest) / 4,
        )
