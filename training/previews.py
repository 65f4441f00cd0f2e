"""A grid of samples at intervals while training: the same noise and classes every time."""

from pathlib import Path

import jax
import jax.numpy as jnp

from .. import guidance, samplers
from ..data.images import grid, save_png, to_uint8
from ..models.spec import Spec
from ..runtime.distributed import is_primary
from .setup import Setup

COLUMNS, ROWS, STEPS = 10, 4, 16


class Previews:
    """Sample from the averaged weights and write ``previews/<step>.png``.

    Args:
        config: the run's config; its seed is used.
        setup: the run; networks that make no images are skipped.
        spec: what the network is built by.
        workdir: pictures go to ``previews/`` below it.
    """

    def __init__(self, config, setup: Setup, spec: Spec, workdir: Path):
        images = len(spec.shape) == 3 and not spec.latent
        self.enabled = spec.preconditioner is not None and images
        self._directory, seed = workdir / "previews", config.seed

        def sample(params):
            indices = jnp.arange(COLUMNS * ROWS, dtype=jnp.int32)
            keys = samplers.sample_keys(jax.random.key(seed), samplers.NOISE, indices)
            return samplers.sample(
                spec.denoiser(params),
                guidance.unguided(),
                samplers.euler(),
                samplers.karras(STEPS),
                samplers.unit_noise(keys, spec.shape),
                indices % spec.num_classes if spec.num_classes else None,
                keys,
            )

        # One program over all hosts, whatever the weights' sharding; every host has the result.
        self._sample = jax.jit(sample, out_shardings=setup.layout.whole)

    def write(self, step: int, params, journal) -> None:
        """Sample and store one grid; classes run along the rows."""
        if not self.enabled:
            return
        images = jax.device_get(self._sample(params))
        if not is_primary():
            return
        picture = grid(to_uint8(images), columns=COLUMNS)
        self._directory.mkdir(exist_ok=True)
        save_png(self._directory / f"{step:08d}.png", picture, magnify=2)
        journal.image(step, "samples", picture)
