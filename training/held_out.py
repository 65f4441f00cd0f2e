"""The loss on examples that a run does not train on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ..runtime.sharding import Layout
from .losses.loss import Loss, Role


class HeldOutLoss:
    """The mean loss of averaged weights over the same batches, noise levels and noise each time.

    Args:
        loss: what is trained on.
        batches: returns the batches, ``x`` and ``condition`` each.
        batch_size: examples in each.
        key: of the noise.
        layout: of the devices.
        name: of the value.
    """

    def __init__(
        self,
        loss: Loss,
        batches: Callable[[], Sequence[Mapping[str, Any]]],
        *,
        batch_size: int,
        key: Key[Array, ""],
        layout: Layout,
        name: str = "held_out_loss",
    ):
        self._batches, self._batch_size, self._name = batches, batch_size, name
        self._key, self._layout, self._placed = key, layout, None

        def mean(params, networks: tuple, batch, key, step):
            roles = {
                role: Role(one.network, params[role], (), one.preconditioner, step=step)
                for role, one in networks
            }
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(batch["x"])))
            return jnp.mean(loss(roles, batch, keys)[0])

        self._mean = jax.jit(mean, static_argnums=1, out_shardings=layout.whole)

    def run(self, step: int, networks: Mapping[str, Role]) -> Iterator[tuple[str, float]]:
        """Yield the mean loss."""
        if self._placed is None:
            self._placed = [self._layout.place(one, self._batch_size) for one in self._batches()]
        fixed = tuple((role, one._replace(params=None)) for role, one in networks.items())
        params = {role: one.params for role, one in networks.items()}
        total = 0.0
        for number, batch in enumerate(self._placed):
            key = jax.random.fold_in(self._key, number)
            total += float(jax.device_get(self._mean(params, fixed, batch, key, jnp.int32(step))))
        yield self._name, total / len(self._placed)
