"""How losses of samples become the gradient of a step."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ...core.registry import register
from ..losses.loss import Batch, Loss, Roles
from ..noise.levels import WHOLE

Metrics = dict[str, Array]


@runtime_checkable
class Objective(Protocol):
    """From a loss to a gradient, with a memory that is part of the run's state.

    A batch may be cut: `gradient` is called on each part, the means of what it returns are taken,
    and `settle` then sees the batch as a whole.
    """

    def init(self) -> Any:
        """Return the memory before the first step, a pytree of arrays."""
        ...

    def gradient(
        self,
        roles: Roles,
        memory: Any,
        params: Mapping[str, Any],
        batch: Batch,
        keys: Key[Array, " part"],
    ) -> tuple[Any, Metrics]:
        """Return what the gradient is made of, and metrics with ``loss`` among them.

        All of it are means over the samples given.

        Args:
            roles: every network, by role.
            memory: of this step.
            params: by role, the parameters that the gradient is of.
            batch, keys: as in `losses.Loss`.
        """
        ...

    def settle(
        self, gradient: Any, metrics: Metrics, memory: Any, key: Key[Array, ""]
    ) -> tuple[Any, Metrics, Any]:
        """Return the gradient, the metrics to report (scalars) and the memory of the next step.

        Args:
            gradient, metrics: means over the batch of what `gradient` returned.
            memory: as `gradient` saw it.
            key: of the step.
        """
        ...


@runtime_checkable
class Scaled(Protocol):
    """A loss and its scale, see `Mean`."""

    @property
    def loss(self) -> Loss: ...

    @property
    def scale(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean over the batch: no memory.

    Attributes:
        loss: one of `training.losses`.
        scale: multiplies the loss while gradients are computed and divides them after, so that
            they stay in the range of a float16 network.
    """

    loss: Loss
    scale: float = 1.0

    def init(self) -> tuple:
        """Return the empty memory."""
        return ()

    def gradient(self, roles, memory, params, batch, keys):
        """Return the gradient of the mean loss, and the means of the loss and its metrics."""
        return mean_gradient(self, roles, params, batch, keys, WHOLE)

    def settle(self, gradient, metrics, memory, key):
        """Return the gradient as it is."""
        del key
        return gradient, metrics, memory


def mean_gradient(of: Scaled, roles: Roles, params, batch, keys, span) -> tuple[Any, Metrics]:
    """Return the gradient of a mean loss over a part of the noise levels, and its metrics."""

    def scaled(params):
        seen = {
            name: role._replace(params=params.get(name, role.params))
            for name, role in roles.items()
        }
        values, metrics = of.loss(seen, batch, keys, span)
        value = jnp.mean(values)
        return of.scale * value, {"loss": value} | jax.tree.map(jnp.mean, metrics)

    gradient, metrics = jax.grad(scaled, has_aux=True)(params)
    return jax.tree.map(lambda g: g / of.scale, gradient), metrics


@register("objective")
def mean(loss: Loss, scale: float, /) -> Mean:
    """Minimise the mean of a loss over the batch."""
    return Mean(loss, scale)
