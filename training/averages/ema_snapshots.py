"""Averages of a run, stored in half precision every so many images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ...core.checks import count, require_ranges
from ...core.errors import UserError
from ...core.files import Array, write_pair
from ...models.checkpoints.files import flatten
from ...runtime.distributed import is_primary
from ..state import Recipe, TrainState
from ..watchers import reached
from .posthoc_ema import FOLDER, std_in_names

EVERY = count(0, "0 is never")


class EMASnapshots:
    """Write ``ema_snapshots/<images>-<std>.safetensors`` at multiples of so many images.

    Averages with a power-function profile are stored, and on request the weights themselves, as
    ``<images>-weights.safetensors``; a `Watcher`.

    Args:
        recipe: says which averages there are.
        every_images: 0 for never.
        with_weights: store the weights, too.
        batch_size: images a step.
        model: the section that the network is built from.
        identity: of the run, stored beside each file.
        workdir: the run's.

    Raises:
        UserError: a number out of range, or nothing that could be stored.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        every_images: int,
        with_weights: bool,
        batch_size: int,
        model: Mapping[str, Any],
        identity: Mapping[str, Any],
        workdir: Path,
    ):
        require_ranges("ema", {"snapshot_images": every_images}, {"snapshot_images": EVERY})
        averages = recipe.main.averages
        self._stds = averages.stds if averages else ()
        if every_images and not with_weights and not any(self._stds):
            raise UserError(
                "ema.snapshot_images stores averages with a power-function profile, and none is "
                "kept: set ema.profile=power, ema.tracked=(0.05,0.10), or "
                "ema.snapshot_weights=True"
            )
        if with_weights and not every_images:
            raise UserError("ema.snapshot_weights has no effect while ema.snapshot_images is 0")
        self._every, self._with_weights = every_images, with_weights
        self._batch_size, self._model, self._identity = batch_size, dict(model), dict(identity)
        self._directory = workdir / FOLDER

    def due(self, step: int, *, last: bool) -> bool:
        """Say whether a multiple of the interval was reached in ``step``, counted from 1."""
        del last
        return reached(step, self._every, self._batch_size)

    def run(self, step: int, state: TrainState) -> dict[str, float]:
        """Store the averages at ``step``; called by every host."""
        images = step * self._batch_size
        for average, std in zip(state.main.ema, self._stds, strict=True):
            if std is not None:
                name = f"{images:012d}-{std_in_names(std)}"
                self._write(name, average, {"std": std, "images": images})
        if self._with_weights:
            self._write(f"{images:012d}-weights", state.main.params, {"images": images})
        return {}

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
