"""The training verb: data, state, steps, checkpoints, records. No mathematics of its own."""

import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from .. import input_pipeline
from ..errors import UserError
from ..models.build import blueprint
from ..models.denoiser import initialise
from .checkpoints import Checkpoints
from .journal import Journal
from .previews import Previews
from .recipes import recipe_from_config
from .state import TrainState, initial_state, make_step

# Streams of the run's seed, so that parameters, step noise and label dropout never share bits.
PARAMETERS, STEPS = 0, 1
# What must agree between a checkpoint and the config that continues it.
IDENTITY = ("seed", "data", "model", "training", "optimizer", "ema")


def parameter_count(params) -> int:
    """Count the numbers in a pytree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def identity(config) -> dict:
    """Return the parts of a config that decide a run's result; machine paths and length are not."""
    parts = {name: config[name].to_dict() if name != "seed" else config.seed for name in IDENTITY}
    parts["data"].pop("dir", None)
    parts["training"].pop("steps", None)
    return parts


def train(config, workdir: Path) -> TrainState:
    """Train ``config.model`` on ``config.data``, continuing from the newest checkpoint if any.

    Args:
        config: an experiment's config (see ``configs/``).
        workdir: checkpoints, ``metrics.jsonl``, TensorBoard events and sample grids go here.

    Returns:
        The final state.

    Raises:
        UserError: another run's workdir, data not on disk, no space, or a loss that is not
            finite (with the step and the last good checkpoint).
    """
    plan = blueprint(config.model)
    recipe = recipe_from_config(config, plan)
    source = input_pipeline.load_source(
        config.data.name, split=config.data.split, data_dir=config.data.dir or None
    )
    if tuple(source.shape) != plan.shape:
        raise UserError(
            f"config.model takes inputs of shape {plan.shape} and the data set "
            f"{config.data.name} has {tuple(source.shape)}: set model.image_size and "
            f"model.channels to match"
        )
    if plan.num_classes not in (0, source.num_classes):
        raise UserError(
            f"config.model has {plan.num_classes} classes and the data set {config.data.name} has "
            f"{source.num_classes}: set model.num_classes"
        )
    checkpoints = Checkpoints(
        workdir / "checkpoints", identity(config), keep=config.checkpoint.keep
    )
    pipeline = input_pipeline.Pipeline(
        source, config.training.batch_size, seed=config.seed, flip=config.data.flip
    )
    key = jax.random.key(config.seed)
    network, params = initialise(
        plan.build,
        jax.random.fold_in(key, PARAMETERS),
        num_classes=plan.num_classes,
        shape=plan.shape,
    )
    state = initial_state(recipe, params)
    start = checkpoints.latest_step or 0
    if start:
        abstract = jax.eval_shape(lambda: state)
        state, position = checkpoints.restore(abstract)
        pipeline.restore(position)
    total = config.training.steps
    print(
        f"{config.name}: {parameter_count(params):,} parameters, {source.num_examples:,} images of "
        f"{config.data.name}, batch {config.training.batch_size}, steps {start} to {total} "
        f"on {jax.device_count()} {jax.devices()[0].platform} device(s); results in {workdir}",
        flush=True,
    )
    if start >= total:
        print(f"nothing to do: {checkpoints.directory} already holds step {start}")
        return state
    step_seed = int(jax.random.bits(jax.random.fold_in(key, STEPS), dtype=jnp.uint32)) & 0x7FFFFFFF
    advance = make_step(recipe, network, step_seed)
    journal = Journal(
        workdir,
        start=start,
        total=total,
        batch_size=config.training.batch_size,
        tensorboard=config.log.tensorboard,
    )
    previews = Previews(config, network, plan, workdir)
    try:
        state = _run(config, state, advance, pipeline, checkpoints, journal, previews)
    finally:
        journal.close()
        pipeline.close()
        checkpoints.close()
    return state


def _run(config, state, advance, pipeline, checkpoints, journal, previews) -> TrainState:
    """Advance from ``state.step`` to the last step."""
    total, log, checkpoint = config.training.steps, config.log, config.checkpoint
    started, waited = time.monotonic(), 0.0
    for step in range(int(state.step) + 1, total + 1):
        before = time.monotonic()
        batch = _with_dropped_labels(config, next(pipeline))
        waited += time.monotonic() - before
        state, metrics = advance(state, batch)
        journal.advance()
        if step % log.every_steps == 0 or step == total:
            values = {name: float(value) for name, value in metrics.items()}
            _stop_if_not_finite(values, step, checkpoints)
            elapsed = time.monotonic() - started
            journal.log(step, values | {"input_wait_share": waited / elapsed})
            if step == log.every_steps:
                logging.info("first %d steps done, compilation included", step)
        if log.preview_every_steps and (step % log.preview_every_steps == 0 or step == total):
            previews.write(step, state.ema, journal)
        if step % checkpoint.every_steps == 0 or step == total:
            # A state that is not finite must never replace a good checkpoint.
            _stop_if_not_finite({"loss": float(metrics["loss"])}, step, checkpoints)
            checkpoints.save(step, state, pipeline.state(), wait=step == total)
    return state


def _with_dropped_labels(config, batch: dict) -> dict:
    label = input_pipeline.drop_labels(
        batch["label"],
        batch["index"],
        seed=config.seed,
        rate=config.training.label_dropout,
        null_label=config.model.get("num_classes", 0),
    )
    return {"image": np.asarray(batch["image"]), "label": label}


def _stop_if_not_finite(values: dict[str, float], step: int, checkpoints: Checkpoints) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            good = checkpoints.latest_step
            last = f"step {good} in {checkpoints.directory}" if good else "none was written yet"
            raise UserError(
                f"{name} is {value} at step {step}; the last good checkpoint is {last}. Lower "
                f"config.optimizer.learning_rate or config.optimizer.clip_norm and use a new "
                f"--workdir"
            )
