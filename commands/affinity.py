"""Affinity of noise levels: how nearly their gradients point the same way.

What ANT (Go et al., arXiv 2306.00354) clusters noise levels by, measured over a run's course.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import input_pipeline
from ..core.errors import UserError
from ..models.builders import build
from ..training.averages.posthoc_ema import FOLDER
from ..training.averages.weight_sums import WeightSum
from ..training.losses.loss import Loss
from ..training.objectives.multitask import Clusters
from ..training.recipes import loss_from_config

# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "model",
    "training",
    "affinity",
)


def gradient_affinity(
    loss: Loss, network, params, batches, key, *, grid: int = 20
) -> Float[np.ndarray, "grid grid"]:
    """Return the cosines between the gradients of noise levels, averaged over batches.

    Args:
        loss: one of `training.losses`.
        network, params: what is trained; a list of parameters averages over a run's course.
        batches: batches of examples, all of one size.
        key: of the noise.
        grid: number of equally probable parts of the noise levels, each with its own gradient.
    """
    tasks = Clusters(loss, 1.0, tuple(np.linspace(0, 1, grid + 1)), weights=None)

    @jax.jit
    def cosines(params, batch, keys):
        repeated = jax.tree.map(lambda a: jnp.repeat(a, grid, axis=0), (batch, keys))
        gradients, _ = tasks.gradient(network, (), params, *repeated)
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
    """Write ``<workdir>/affinity.npz`` from the weights that a run stored (a verb).

    The file is what ``objective: {name: clusters, cost: affinity, affinity: FILE}`` reads.

    Args:
        config: of the run; ``affinity`` says how finely and on how much data it is measured.
        workdir: of a run with ``ema.snapshot_weights``.

    Raises:
        UserError: no stored weights, or a loss without noise levels.
    """
    section = config.affinity
    files = sorted((workdir / FOLDER).glob("*-weights.safetensors"))
    if not files:
        raise UserError(
            f"{workdir / FOLDER} holds no weights: train with --config.ema.snapshot_images=N and "
            f"--config.ema.snapshot_weights=True"
        )
    loss = loss_from_config(config, build(config.model))
    if not hasattr(loss, "corruption"):
        raise UserError(
            f"config.training.loss {config.training.loss.name!r} has no noise levels to compare"
        )
    source = input_pipeline.load_source(**config.data)
    pipeline = input_pipeline.Pipeline(source, section.batch_size, seed=config.seed)
    try:
        batches = [next(pipeline) for _ in range(section.batches)]
    finally:
        pipeline.close()
    batches = [{name: jnp.asarray(batch[name]) for name in ("x", "condition")} for batch in batches]
    network = WeightSum(files[:1]).network
    params = [WeightSum([file]).params([1.0]) for file in files]
    found = gradient_affinity(
        loss, network, params, batches, jax.random.key(config.seed), grid=section.grid
    )
    path = workdir / "affinity.npz"
    np.savez(path, affinity=found)
    print(
        f"wrote {path}: {section.grid} parts of the noise levels, {len(files)} weights, cosines "
        f"{found.min():.3f} to {found[~np.eye(len(found), dtype=bool)].max():.3f}"
    )
    return path
