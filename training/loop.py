"""The training verb: data, state, steps, checkpoints, records. No mathematics of its own."""

import contextlib
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from .. import input_pipeline
from ..core.errors import UserError
from ..models.builders import build
from ..runtime import distributed
from ..runtime.checkpointer import Checkpoints
from ..runtime.metric_writer import Journal
from ..runtime.sharding import layout_from_config
from ..runtime.speed import peak_macs
from .averages.ema_snapshots import EMASnapshots
from .previews import Previews
from .recipes import recipe_from_config
from .setup import set_up
from .state import TrainState

# Streams of the run's seed, so that parameters, step noise and label dropout never share bits.
PARAMETERS, STEPS = 0, 1
# Steps timed after compilation, for the estimate of how long the run will take.
TIMED_STEPS = 5
# What must agree between a checkpoint and the config that continues it.
IDENTITY = ("seed", "data", "model", "training", "optimizer", "ema")
# Of the averages, what is stored of them and made from that, which changes no number of a run.
STORED_AVERAGES = (
    *("snapshot_images", "snapshot_weights"),
    *("reconstruct", "at_images", "reconstruct_dtype"),
)


def parameter_count(params) -> int:
    """Count the numbers in a pytree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def identity(config) -> dict:
    """Return the parts of a config that decide a run's result; machine paths and length are not."""
    parts = {name: config[name].to_dict() if name != "seed" else config.seed for name in IDENTITY}
    parts["data"].pop("dir", None)
    for only_how in ("steps", "accumulate", "remat"):
        parts["training"].pop(only_how, None)
    for only_kept in STORED_AVERAGES:
        parts["ema"].pop(only_kept, None)
    return parts


def checkpoints_of(config, workdir: Path) -> Checkpoints:
    """Return the checkpoints of a run.

    Raises:
        UserError: they are another run's, or ``config.checkpoint`` asks for what cannot be.
    """
    section = config.checkpoint
    if section.every_steps < 1:
        raise UserError(
            f"config.checkpoint.every_steps is {section.every_steps}: save every 1 or more steps"
        )
    return Checkpoints(
        workdir / "checkpoints",
        identity(config),
        keep=section.keep,
        keep_every_steps=section.keep_every_steps,
        verify=section.verify,
        force=section.force,
    )


def train(config, workdir: Path) -> TrainState:
    """Train ``config.model`` on ``config.data``, continuing from the newest checkpoint if any.

    Args:
        config: an experiment's config (see ``configs/``).
        workdir: checkpoints, ``metrics.jsonl``, TensorBoard events and sample grids go here.

    Returns:
        The final state.

    Raises:
        UserError: another run's workdir, checkpoints none of which can be read, data not on disk,
            no space, or a loss that is not finite (with the step and the last good checkpoint).
        SystemExit: with status 0, after a SIGTERM and a checkpoint.
    """
    spec = build(config.model)
    recipe = recipe_from_config(config, spec)
    source = input_pipeline.load_source(**config.data)
    if tuple(source.shape) != spec.shape:
        raise UserError(
            f"config.model takes inputs of shape {spec.shape} and the data set "
            f"{config.data.name} has {tuple(source.shape)}: set model.image_size and "
            f"model.channels to match"
        )
    if spec.num_classes not in (0, source.num_classes):
        raise UserError(
            f"config.model has {spec.num_classes} classes and the data set {config.data.name} has "
            f"{source.num_classes}: set model.num_classes"
        )
    layout = layout_from_config(config.sharding)
    parts = layout.shares * config.training.accumulate
    if config.training.accumulate < 1 or config.training.batch_size % parts:
        raise UserError(
            f"config.training.batch_size {config.training.batch_size} cannot be shared equally by "
            f"{layout.shares} parts of the mesh in {config.training.accumulate} micro-batches "
            f"(training.accumulate, 1 or more): make it a multiple of {parts}"
        )
    setup = set_up(spec, recipe, layout)
    key = jax.random.key(config.seed)
    step_key = int(jax.random.bits(jax.random.fold_in(key, STEPS), dtype=jnp.uint32))
    advance = setup.step(
        step_key & 0x7FFFFFFF,
        accumulate=config.training.accumulate,
        remat=config.training.remat,
    )
    with contextlib.ExitStack() as open_things:
        termination = open_things.enter_context(distributed.Termination())
        checkpoints = open_things.enter_context(contextlib.closing(checkpoints_of(config, workdir)))
        pipeline = open_things.enter_context(
            contextlib.closing(
                input_pipeline.Pipeline(
                    source,
                    config.training.batch_size,
                    seed=config.seed,
                    flip=config.data.flip,
                    rows=layout.rows(config.training.batch_size),
                )
            )
        )
        restored = checkpoints.restore(setup.abstract)
        start, total = restored[0] if restored else 0, config.training.steps
        count = parameter_count(setup.abstract.params)
        distributed.say(
            f"{config.name}: {count:,} parameters, {source.num_examples:,} images of "
            f"{config.data.name}, batch {config.training.batch_size}, steps {start} to {total} on "
            f"{layout}; results in {workdir}"
        )
        if restored:
            _, state, extra = restored
            pipeline.restore(extra["position"])
        else:
            if (workdir / "metrics.jsonl").exists():
                distributed.say("the run that was here before saved nothing: it begins again")
            state = setup.create(jax.random.fold_in(key, PARAMETERS))
        if start >= total:
            distributed.say(f"nothing to do: {checkpoints.directory} already holds step {start}")
            return state
        checkpoints.claim()
        journal = open_things.enter_context(
            contextlib.closing(
                Journal(
                    workdir,
                    start=start,
                    total=total,
                    batch_size=config.training.batch_size,
                    tensorboard=config.log.tensorboard,
                    wandb=config.log.wandb,
                    name=config.name,
                    config=config.to_dict(),
                    macs=setup.macs(config.training.batch_size),
                    peak=peak_macs(),
                    writes=distributed.is_primary(),
                )
            )
        )
        previews = Previews(config, setup, spec, workdir)
        snapshots = EMASnapshots(config, recipe, identity(config), workdir)
        return _run(
            config,
            setup,
            state,
            advance,
            pipeline,
            checkpoints,
            journal,
            previews,
            snapshots,
            termination,
        )


def _run(
    config, setup, state, advance, pipeline, checkpoints, journal, previews, snapshots, termination
) -> TrainState:
    """Advance from ``state.step`` to the last step."""
    total, log, checkpoint = config.training.steps, config.log, config.checkpoint
    started, waited, first = time.monotonic(), 0.0, int(jax.device_get(state.step)) + 1
    for step in range(first, total + 1):
        before = time.monotonic()
        batch = _with_dropped_conditions(config, next(pipeline), setup.network.num_classes)
        waited += time.monotonic() - before
        # What moves data unasked at every step is slow and silent: it is an error here.
        with jax.transfer_guard("disallow"):
            placed = setup.layout.place(batch, config.training.batch_size)
            state, metrics = advance(state, placed)
        journal.advance()
        if step % log.every_steps == 0 or step == total:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            # The loss first: it is what a person looks for.
            _stop_if_not_finite({"loss": values["loss"]} | values, step, checkpoints)
            elapsed = time.monotonic() - started
            journal.log(step, values | {"input_wait_share": waited / elapsed})
        if step == first:
            jax.block_until_ready(state)
            compiled = time.monotonic()
        elif step == first + TIMED_STEPS:
            jax.block_until_ready(state)
            each = (time.monotonic() - compiled) / TIMED_STEPS
            distributed.say(
                f"compiled in {compiled - started:.0f} s; {each:.3f} s a step, so about "
                f"{each * (total - step) / 60:.0f} min to step {total}"
            )
        if log.preview_every_steps and (step % log.preview_every_steps == 0 or step == total):
            previews.write(step, setup.recipe.averages.main(state.ema), journal)
        if snapshots.due(step):
            _stop_if_not_finite({"loss": float(jax.device_get(metrics["loss"]))}, step, checkpoints)
            snapshots.write(step, state)
        last = termination.requested(step)
        if step % checkpoint.every_steps == 0 or step == total or last:
            # A state that is not finite must never replace a good checkpoint.
            loss = float(jax.device_get(metrics["loss"]))
            _stop_if_not_finite({"loss": loss}, step, checkpoints)
            extra = {"position": pipeline.state(), "random": {"seed": config.seed, "step": step}}
            checkpoints.save(step, state, extra, wait=step == total or last)
        checkpoints.raise_if_failed()
        if last and step < total:
            distributed.say(
                f"stopped by SIGTERM: step {step} is saved in {checkpoints.directory}; the same "
                f"command goes on from there"
            )
            # Whatever was to follow training must not run.
            raise SystemExit(0)
    distributed.say(journal.summary())
    return state


def _with_dropped_conditions(config, batch: dict, null: int) -> dict:
    condition = input_pipeline.drop_condition(
        batch["condition"] if null else None,
        batch["index"],
        seed=config.seed,
        rate=config.training.label_dropout,
        null=null,
    )
    return {"x": np.asarray(batch["x"]), "condition": condition}


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
