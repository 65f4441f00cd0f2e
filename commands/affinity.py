"""Affinity of noise levels: how nearly their gradients point the same way.

What ANT (Go et al., arXiv 2306.00354) clusters noise levels by, measured over a run's course.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .. import input_pipeline
from ..core.checks import count, require_ranges
from ..core.errors import UserError
from ..core.files import replacing
from ..core.random import checked_seed, root_key
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, Folder
from ..training.averages.posthoc_ema import FOLDER
from ..training.averages.weight_sums import WeightSum
from ..training.loop import Conditioned
from ..training.losses.loss import MAIN, Loss, Role
from ..training.objectives.multitask import Clusters, Equal
from ..training.recipes import loss_of
from .config.training import networks_of, plain, source_of

# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "-data.flip",
    "model",
    *(f"training.{name}" for name in ("loss", "noise", "weighting", "kernel")),
    *(f"training.{name}" for name in ("augmentation", "perturbation", "objective")),
    "affinity",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(RUN, SAMPLES, EVALUATION))
RANGES = {"grid": count(2), "batches": count(1), "batch_size": count(1)}


def gradient_affinity(
    loss: Loss,
    main: Role,
    params: Any,
    batches: Sequence[Mapping[str, Any]],
    key: Key[Array, ""],
    *,
    grid: int = 20,
) -> Float[np.ndarray, "grid grid"]:
    """Return the cosines between the gradients of noise levels, averaged over batches.

    Args:
        loss: one of `training.losses`.
        main: the network that is trained.
        params: its parameters; a list of them averages over a run's course.
        batches: batches of examples, all of one size.
        key: of the noise.
        grid: number of equally probable parts of the noise levels, each with its own gradient.
    """
    tasks = Clusters(loss, 1.0, tuple(np.linspace(0, 1, grid + 1)), weights=Equal())

    @jax.jit
    def cosines(params, batch, keys):
        repeated = jax.tree.map(lambda a: jnp.repeat(a, grid, axis=0), (batch, keys))
        gradients, _ = tasks.gradient({MAIN: main}, (), {MAIN: params}, *repeated)
        flat = [g.reshape(grid, -1) for g in jax.tree.leaves(gradients)]
        gram = sum(jnp.matmul(g, g.T, precision="highest") for g in flat)
        length = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), jnp.finfo(gram.dtype).tiny))
        return gram / length / length[:, None]

    found = []
    for one in params if isinstance(params, (list, tuple)) else [params]:
        for number, batch in enumerate(batches):
            keys = jax.random.split(jax.random.fold_in(key, number), len(batch["x"]))
            found.append(np.asarray(cosines(one, batch, keys), np.float64))
    return np.mean(found, axis=0)


def run(config, workdir: Path) -> Path:
    """Write ``<workdir>/affinity.npz`` from the weights that a run stored.

    The file is what ``objective: {name: clusters, cost: affinity, affinity: FILE}`` reads.

    Args:
        config: of the run; ``affinity`` says how finely and on how much data it is measured.
        workdir: of a run with ``ema.snapshot_weights``.

    Raises:
        UserError: no stored weights, or a loss without noise levels.
    """
    section, seed = config.affinity, checked_seed(config.seed)
    require_ranges("affinity", plain(section), RANGES)
    path = workdir / "affinity.npz"
    _require_own(path)
    files = sorted((workdir / FOLDER).glob("*-weights.safetensors"))
    if not files:
        raise UserError(
            f"{workdir / FOLDER} holds no weights: train with ema.snapshot_images=N and "
            f"ema.snapshot_weights=True"
        )
    networks = networks_of(config)
    loss = loss_of(plain(config.training), networks.specs)
    if not hasattr(loss, "corruption"):
        raise UserError(
            f"training.loss {config.training.loss.name!r} has no noise levels to compare"
        )
    pipeline = input_pipeline.Pipeline(source_of(config), section.batch_size, seed=seed)
    with contextlib.closing(pipeline):
        stream = Conditioned(pipeline, lambda condition, index: condition)
        batches = [jax.tree.map(jnp.asarray, next(stream)) for _ in range(section.batches)]
    main = Role(WeightSum(files[:1]).network, None, (), networks.specs[MAIN].preconditioner)
    params = [WeightSum([file]).params([1.0]) for file in files]
    found = gradient_affinity(loss, main, params, batches, root_key(seed), grid=section.grid)
    with replacing(path) as file:
        np.savez(file, affinity=found)
    print(
        f"wrote {path}: {section.grid} parts of the noise levels, {len(files)} weights, cosines "
        f"{found.min():.3f} to {found[~np.eye(len(found), dtype=bool)].max():.3f}"
    )
    return path


def _require_own(path: Path) -> None:
    if not path.exists():
        return
    try:
        with np.load(path, allow_pickle=False) as stored:
            own = set(stored.files) == {"affinity"}
    except (OSError, ValueError):
        own = False
    if not own:
        raise UserError(f"{path} exists and --mode=affinity did not write it: move it away")
