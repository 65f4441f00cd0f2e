"""A function of a batch, run over any number of examples on all devices of this process."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Batches:
    """Run ``function(fixed, batch)`` on batches of one size, so that what is jitted compiles once.

    Args:
        function: of a pytree and of an array ``[batch, ...]``, to a pytree of arrays
            ``[batch, ...]``; an example's result must depend on it alone.
        fixed: the pytree, put on every device once.
        batch_size: examples of a call; rounded up to a multiple of the devices.
        before: what is done to a batch's examples on the host, if anything.
        static: further arguments of the function, the same in every call.

    Raises:
        ValueError: batches of no examples.
    """

    def __init__(
        self,
        function: Callable,
        fixed: Any,
        batch_size: int,
        *,
        before: Callable[[np.ndarray], np.ndarray] | None = None,
        **static: Any,
    ):
        if batch_size < 1:
            raise ValueError(f"batches of {batch_size} examples: give at least 1")
        devices = jax.local_devices()
        # The compiler places what happens inside the function.
        mesh = jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
        self._spread = NamedSharding(mesh, PartitionSpec("data"))
        self._fixed = jax.device_put(fixed, NamedSharding(mesh, PartitionSpec()))
        self._run, self._before = partial(function, **static), before
        self.size = -(-batch_size // len(devices)) * len(devices)

    def __call__(self, examples: np.ndarray) -> Any:
        """Return the function's result for every example, of which there is one at least."""
        parts = [
            self._batch(examples[begin : begin + self.size])
            for begin in range(0, len(examples), self.size)
        ]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def _batch(self, examples: np.ndarray) -> Any:
        if self._before is not None:
            examples = self._before(examples)
        # Filled up by repeating examples, whose results are dropped.
        full = np.resize(examples, (self.size, *examples.shape[1:]))
        result = self._run(self._fixed, jax.device_put(full, self._spread))
        return jax.tree.map(lambda array: array[: len(examples)], jax.device_get(result))
