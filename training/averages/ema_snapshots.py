"""Averages of a run, stored in half precision every so many images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ...core.files import Array, write_pair
from ...models.checkpoints.files import flatten
from ...runtime.distributed import is_primary
from ..state import Recipe, TrainState
from .posthoc_ema import FOLDER


class EMASnapshots:
    """Write ``ema_snapshots/<images>-<std>.safetensors`` at multiples of so many images.

    Averages with a power-function profile are stored, and on request the weights themselves, as
    ``<images>-weights.safetensors``.

    Args:
        config: the run's; ``ema.snapshot_images`` (0 for never) and ``ema.snapshot_weights``.
        recipe: says which averages there are.
        identity: of the run, stored beside each file.
        workdir: the run's.
    """

    def __init__(self, config, recipe: Recipe, identity: dict, workdir: Path):
        self._every = config.ema.snapshot_images
        self._with_weights = config.ema.snapshot_weights
        self._batch_size, self._stds = config.training.batch_size, recipe.averages.stds
        self._model, self._identity = config.model.to_dict(), identity
        self._directory = workdir / FOLDER

    def due(self, step: int) -> bool:
        """Say whether a multiple of the interval was reached in ``step``, counted from 1."""
        if not self._every:
            return False
        after, before = (n * self._batch_size // self._every for n in (step, step - 1))
        return after > before

    def write(self, step: int, state: TrainState) -> None:
        """Store the averages at ``step``; called by every host."""
        images = step * self._batch_size
        for average, std in zip(state.ema, self._stds, strict=True):
            if std is not None:
                self._write(f"{images:012d}-{std:.3f}", average, {"std": std, "images": images})
        if self._with_weights:
            self._write(f"{images:012d}-weights", state.params, {"images": images})

    def _write(self, name: str, params: Any, about: dict) -> None:
        leaves = dict(_on_host(flatten(params)))
        if not is_primary():
            return
        arrays = {
            key: Array(value.shape, value.dtype, lambda value=value: value)
            for key, value in leaves.items()
        }
        sidecar = {"model": self._model, "name": name, "config": self._identity, "ema": about}
        write_pair(self._directory / f"{name}.safetensors", arrays, sidecar)


def _on_host(leaves: dict[str, jax.Array]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every array whole, on the host; all hosts take part."""
    for name, leaf in leaves.items():
        half = _whole(leaf.astype(jnp.float16))
        # A number beyond float16 costs its array the space, not the run its snapshot.
        yield name, half if np.isfinite(half).all() else _whole(leaf)


def _whole(leaf: jax.Array) -> np.ndarray:
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(jax.device_get(leaf))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
