"""A grid of samples at intervals while training: the same noise and classes every time."""

from pathlib import Path

import jax
import jax.numpy as jnp

from .. import guidance, samplers
from ..models.blueprint import Blueprint
from ..models.denoiser import Denoiser, Network
from ..report.grids import grid, save_png, to_uint8

COLUMNS, ROWS, STEPS = 10, 4, 16


class Previews:
    """Sample from the averaged weights and write ``previews/<step>.png``.

    Args:
        config: the run's config; its seed and guidance scale are used.
        network, plan: the network and its blueprint; networks that make no images are skipped.
        workdir: pictures go to ``previews/`` below it.
    """

    def __init__(self, config, network: Network, plan: Blueprint, workdir: Path):
        self.enabled = plan.preconditioner is not None and len(plan.shape) == 3
        self._network, self._plan = network, plan
        self._directory = workdir / "previews"
        self._keys = samplers.sample_keys(
            jax.random.key(config.seed), samplers.NOISE, jnp.arange(COLUMNS * ROWS)
        )

    def write(self, step: int, params, journal) -> None:
        """Sample and store one grid; classes run along the rows."""
        if not self.enabled:
            return
        classes = self._plan.num_classes
        labels = jnp.arange(COLUMNS * ROWS, dtype=jnp.int32) % classes if classes else None
        denoise = Denoiser(params, self._network, self._plan.preconditioner)
        images = samplers.sample(
            denoise,
            guidance.unguided(),
            samplers.euler(),
            samplers.karras(STEPS),
            samplers.unit_noise(self._keys, self._plan.shape),
            labels,
            self._keys,
        )
        picture = grid(to_uint8(jax.device_get(images)), columns=COLUMNS)
        self._directory.mkdir(exist_ok=True)
        save_png(self._directory / f"{step:08d}.png", picture, magnify=2)
        journal.image(step, "samples", picture)
