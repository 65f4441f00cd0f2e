"""Average velocities: what flow maps (MeanFlow, shortcut models) are trained by, in flow time.

On the linear path ``z = (1 - t) x0 + t noise``, with ``z = (1 - t) x`` and
``t = sigma / (1 + sigma)``, ``u(z, t, r) = (z_t - z_r) / (t - r)``; at r = t it is the velocity.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.errors import UserError
from ...models.denoiser import TO
from ...models.preconditioning import FlowMap
from ...models.spec import Spec
from ..losses.loss import Role, column
from .teacher import Field


def average_velocity(
    role: Role,
    z: Float[Array, " batch *shape"],
    time: Float[Array, " batch"],
    interval: Float[Array, " batch"],
    condition: Any,
    **inputs: Array,
) -> Float[Array, " batch *shape"]:
    """Return the network's ``u(z, t, t - interval)``.

    Args:
        role: of a network with the preconditioner ``flow_map``; its gradient is carried.
        z: on the linear path.
        time: t, in (0, 1).
        interval: ``t - r``, 0 or more.
        condition: of the batch.
        inputs: what else the network takes.
    """
    assert isinstance(role.preconditioner, FlowMap), "a network with the preconditioner flow_map"
    skip, out, inside, noise = role.preconditioner.velocity(time)
    given = {**inputs, TO: interval}
    raw = role.network(role.params, column(inside, z) * z, noise, condition, **given)
    return column(skip, z) * z + column(out, z) * raw[..., : z.shape[-1]]


def teacher_velocity(
    field: Field, z: Float[Array, " batch *shape"], time: Float[Array, " batch"]
) -> Float[Array, " batch *shape"]:
    """Return the field's velocity ``(z - D) / t``, without a gradient."""
    rest = 1 - time
    return (z - field.denoise(z / column(rest, z), time / rest)) / column(time, z)


def flow_map_of(spec: Spec, name: str) -> FlowMap:
    """Return the preconditioner of a network that is a flow map.

    Raises:
        UserError: another, in the name of a loss.
    """
    if not isinstance(spec.preconditioner, FlowMap):
        raise UserError(
            f"training.loss: {name} trains a flow map, a network that is told where to jump: set "
            f"model.preconditioner to {{'name': 'flow_map'}}, with network='edm' to begin from a "
            f"pretrained network of EDM's"
        )
    return spec.preconditioner


def latest(spec: Spec) -> float:
    """Return the flow time of the highest noise level that a network knows."""
    return float(1 / (1 + 1 / spec.sigma_range[1]))


def clipped(sigma: Float[Array, " batch"], spec_latest: float) -> Float[Array, " batch"]:
    """Return the flow time of noise levels, at most the latest that the network knows."""
    return jnp.minimum(sigma / (1 + sigma), spec_latest)
