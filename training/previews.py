"""A grid of samples at intervals while training: the same noise and classes every time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import guidance, samplers
from ..core.random import NOISE, root_key, sample_keys, unit_noise
from ..data.images import grid, save_png, to_uint8
from ..models.preconditioning import estimate_of
from ..runtime.distributed import is_primary
from .losses.loss import MAIN
from .setup import Setup
from .state import TrainState
from .watchers import averaged

COLUMNS, ROWS, STEPS = 10, 4, 16


def prior_of(objective: Any) -> samplers.Prior:
    """Return what samples of a network begin from, by the kernel of noise that it is trained on."""
    corruption = getattr(getattr(objective, "loss", None), "corruption", None)
    return getattr(getattr(corruption, "kernel", None), "prior", samplers.gaussian())


class Previews:
    """Sample from the averaged weights, over the network's own noise levels; a `Watcher`.

    Inputs of the network are the middles of their ranges.

    Args:
        setup: the run; networks that make no images are skipped.
        seed: of the noise.
        every_steps: 0 for never.
        workdir: ``previews/<step>.png`` go below it.
        show: is given step, name and picture, uint8 ``[height, width, channels]``.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        seed: int,
        every_steps: int,
        workdir: Path,
        show: Callable[[int, str, Any], None],
    ):
        spec = setup.specs[MAIN]
        images = len(spec.shape) == 3 and not spec.latent
        images = images and not isinstance(spec.condition, Mapping)
        self._every = every_steps if spec.preconditioner is not None and images else 0
        self._directory, self._show, self._recipe = workdir / "previews", show, setup.recipe
        low, high = spec.sigma_range
        inputs = spec.denoiser(spec.shapes).inputs if self._every else {}
        middles = {name: one.middle for name, one in inputs.items()}
        # Few-step networks jump from the highest level to the data; others take their steps.
        estimate = estimate_of(spec.preconditioner) if self._every else "x0"
        jumps = {"consistency": samplers.consistency(low), "flow_map": samplers.ctm()}
        solver = jumps.get(estimate, samplers.euler())
        sigmas = np.array([high, 0.0]) if estimate in jumps else samplers.karras(STEPS, low, high)

        def sample(params):
            indices = jnp.arange(COLUMNS * ROWS, dtype=jnp.int32)
            keys = sample_keys(root_key(seed), NOISE, indices)
            return samplers.sample(
                spec.denoiser(params).bind(**middles),
                guidance.unguided(),
                solver,
                sigmas,
                unit_noise(keys, spec.shape),
                indices % spec.num_classes if spec.num_classes else None,
                keys,
                prior=prior_of(setup.recipe.objective),
            )

        # One program over all hosts, whatever the weights' sharding; every host has the result.
        self._sample = jax.jit(sample, out_shardings=setup.layout.whole)

    def due(self, step: int, *, last: bool) -> bool:
        """Say whether ``step`` is a multiple of the interval, or the last."""
        return self._every > 0 and (last or step % self._every == 0)

    def run(self, step: int, state: TrainState) -> Mapping[str, float]:
        """Sample and store one grid; classes run along the rows."""
        images = jax.device_get(self._sample(averaged(self._recipe, state)[MAIN]))
        if is_primary():
            picture = grid(to_uint8(images), columns=COLUMNS)
            self._directory.mkdir(exist_ok=True)
            save_png(self._directory / f"{step:08d}.png", picture, magnify=2)
            self._show(step, "samples", picture)
        return {}
