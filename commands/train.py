"""Train a network on a data set; the same command again continues."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import input_pipeline, samplers
from ..core.checks import count, require_ranges
from ..core.errors import UserError
from ..core.random import NOISE, TRAINING_STEPS, checked_seed, root_key, sample_keys, unit_noise
from ..data.source import Source
from ..models.conditions import like as like_of
from ..models.spec import Spec
from ..runtime import distributed
from ..runtime.metric_writer import Journal
from ..runtime.run_folder import RUN, Folder
from ..runtime.sharding import Layout, layout
from ..runtime.speed import peak_macs
from ..training import loop
from ..training.averages.ema_snapshots import EMASnapshots
from ..training.held_out import HeldOutLoss
from ..training.losses.loss import MAIN, Role
from ..training.optimizers import runs_out
from ..training.previews import Previews, prior_of
from ..training.setup import Setup, parameters_key
from ..training.state import TrainState
from ..training.watchers import Evaluation, Evaluator, Watcher
from .config.training import (
    AVERAGES,
    checkpoints_of,
    data_of,
    identity_of,
    networks_of,
    plain,
    require_effect,
    require_numbers,
    restored,
    setup_of,
    source_of,
)

# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "model",
    "training",
    "optimizer",
    *AVERAGES,
    "ema.snapshot_images",
    "ema.snapshot_weights",
    "roles",
    "evaluators",
    "sharding",
    "checkpoint",
    "log",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=RUN)
# Examples at once when samples of an evaluator are made and looked at.
SAMPLES_AT_ONCE = 64
# Of every config that says nothing else.
USUAL_DROPOUT = 0.1


def run(config, workdir: Path) -> TrainState:
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
    seed = checked_seed(config.seed)
    require_numbers(config)
    require_effect(config)
    training, log = config.training, config.log
    batch_size, total = training.batch_size, training.steps
    networks = networks_of(config)
    spec = networks.specs[MAIN]
    where = layout(**plain(config.sharding))
    _require_shares(where, batch_size, training.accumulate)
    setup = setup_of(config, where, networks)
    source = source_of(config)
    _require_fit(spec, source, config.data.name, plain(training.label_dropout))
    data = data_of(config, source)
    key = root_key(seed)
    step_key = int(jax.random.bits(jax.random.fold_in(key, TRAINING_STEPS), dtype=jnp.uint32))
    advance = setup.step(
        step_key & 0x7FFFFFFF, accumulate=training.accumulate, remat=training.remat
    )
    with contextlib.ExitStack() as open_things:
        termination = open_things.enter_context(distributed.Termination())
        checkpoints = checkpoints_of(config, workdir, networks, data)
        open_things.enter_context(contextlib.closing(checkpoints))
        found = restored(checkpoints, setup)
        start = found[0] if found else 0
        parameters = sum(
            math.prod(leaf.shape) for leaf in jax.tree.leaves(setup.abstract.main.params)
        )
        distributed.say(
            f"{config.name}: {parameters:,} parameters, {source.num_examples:,} images of "
            f"{config.data.name}, batch {batch_size}, steps {start} to {total} on {where}; "
            f"results in {workdir}"
        )
        if found and start >= total:
            distributed.say(f"nothing to do: {checkpoints.directory} already holds step {start}")
            return found[1]
        if found:
            _, state, extra = found
            position = extra["position"]
        else:
            if total < 1:
                raise UserError("training.steps is 0: give 1 or more")
            if (workdir / "metrics.jsonl").exists():
                distributed.say("the run that was here before saved nothing: it begins again")
            for line in (line for one in networks.starts.values() for line in one.said):
                distributed.say(line)
            state, position = setup.create(parameters_key(seed)), {"examples_seen": 0}
        _say_where_rates_end(networks.optimizers, batch_size, total)
        pipeline = input_pipeline.Pipeline(
            source,
            batch_size,
            seed=seed,
            flip=config.data.flip,
            rows=where.rows(batch_size),
        )
        open_things.enter_context(contextlib.closing(pipeline))
        pipeline.restore(position)
        checkpoints.claim()
        journal = Journal(
            workdir,
            start=start,
            total=total,
            batch_size=batch_size,
            tensorboard=log.tensorboard,
            wandb=log.wandb,
            name=config.name,
            facts=config.to_dict(),
            macs=setup.macs(batch_size),
            peak=peak_macs(),
            writes=distributed.is_primary(),
        )
        open_things.enter_context(contextlib.closing(journal))
        snapshots = EMASnapshots(
            setup.recipe,
            every_images=config.ema.snapshot_images,
            with_weights=config.ema.snapshot_weights,
            batch_size=batch_size,
            model=plain(config.model),
            identity=identity_of(config, networks, data),
            workdir=workdir,
        )
        watchers: list[Watcher] = [
            Previews(
                setup,
                seed=seed,
                every_steps=log.preview_every_steps,
                workdir=workdir,
                show=journal.image,
            ),
            *evaluations(config, setup),
            snapshots,
        ]
        return loop.run(
            advance,
            state,
            loop.Conditioned(pipeline, _dropping(training.label_dropout, seed, setup, state)),
            total=total,
            batch_size=batch_size,
            layout=where,
            checkpoints=checkpoints,
            save_every=config.checkpoint.every_steps,
            journal=journal,
            record_every=log.every_steps,
            watchers=watchers,
            termination=termination,
            seed=seed,
            say=distributed.say,
        )


def _require_shares(where: Layout, batch_size: int, accumulate: int) -> None:
    parts = where.shares * accumulate
    if batch_size % parts:
        raise UserError(
            f"training.batch_size {batch_size} cannot be shared equally by {where.shares} parts of "
            f"the mesh in {accumulate} micro-batches (training.accumulate, 1 or more): make it a "
            f"multiple of {parts}"
        )


def _require_fit(spec: Spec, source: Source, name: str, rate: Any) -> None:
    """Refuse data of other samples or conditions than the network takes."""
    if tuple(source.shape) != spec.shape:
        raise UserError(
            f"the model takes inputs of shape {spec.shape} and the data set {name} has "
            f"{tuple(source.shape)}: set model.image_size and model.channels to match"
        )
    if spec.condition is None and rate not in (0, USUAL_DROPOUT):
        raise UserError(
            f"training.label_dropout is {rate} and has no effect on a model that takes no "
            f"condition: leave it out"
        )
    if isinstance(spec.condition, Mapping):
        _require_parts(spec, source, name)
        return
    if spec.num_classes not in (0, source.num_classes):
        raise UserError(
            f"the model has {spec.num_classes} classes and the data set {name} has "
            f"{source.num_classes}: set model.num_classes"
        )
    if spec.num_classes and source.condition is not None:
        _require_labels(np.asarray(source.condition), spec.num_classes)


def _require_parts(spec: Spec, source: Source, name: str) -> None:
    """Refuse data whose conditions are not those that the network takes."""
    _, condition = source.read(np.arange(1))
    like = like_of(spec.condition, 1)
    wanted = {part: tuple(one.shape[1:]) for part, one in like.items()}
    found = condition if isinstance(condition, Mapping) else {}
    shapes = {part: tuple(np.shape(value)[1:]) for part, value in found.items()}
    # Parts that data lack are the network's own to fill in.
    if not shapes or not shapes.items() <= wanted.items():
        has = f"conditions of {shapes}" if found else "no conditions of named parts"
        raise UserError(
            f"the model is conditioned on {wanted} (shapes without the batch), and the data set "
            f"{name} has {has}"
        )


def _say_where_rates_end(
    optimizers: Mapping[str, Mapping[str, Any]], batch_size: int, total: int
) -> None:
    """Say before the first step from which one on a rate is 0."""
    for role, section in optimizers.items():
        place = "optimizer" if role == MAIN else f"roles.{role}.optimizer"
        end = runs_out(
            schedule=section["schedule"],
            decay_steps=section["decay_steps"],
            decay_images=section["decay_images"],
            batch_size=batch_size,
        )
        if end is not None and end < total:
            distributed.say(
                f"{place}: from step {math.ceil(end)} of {total} on the learning rate is 0, and "
                f"nothing is learnt: raise {place}.decay_steps (or decay_images), in another "
                f"--workdir or with checkpoint.force=True",
                error=True,
            )


def _dropping(rate: Any, seed: int, setup: Setup, state: TrainState):
    """Return what drops conditions to their nulls, by position."""
    network = setup.network
    # A constant, even where it lies among the parameters: what stands for no caption stays.
    # It is read by a program of all processes: no one of them need hold a parameter whole.
    learnt = isinstance(network.condition, Mapping)
    read = jax.jit(network.null_condition, out_shardings=setup.layout.whole)
    found = jax.device_get(read(state.main.params)) if learnt else network.null_condition(None)
    null = jax.tree.map(np.asarray, found)

    def drop(condition, index):
        if network.condition is None:
            return None
        if network.num_classes:
            _require_labels(condition, network.num_classes)
        return input_pipeline.drop_condition(
            condition, index, seed=seed, rate=plain(rate), null=null
        )

    return drop


def _require_labels(labels: np.ndarray, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise UserError(
            f"the data hold the label {wrong.flat[0]}, and the model knows 0 to {classes - 1}: "
            f"mend the labels, or set model.num_classes"
        )


def evaluations(config, setup: Setup) -> Iterator[Evaluation]:
    """Yield what ``evaluators`` asks for.

    Raises:
        UserError: an unknown evaluator or field, or a number out of range.
    """
    roles = {
        role: Role(network, None, (), setup.specs[role].preconditioner)
        for role, network in setup.networks.items()
    }
    for name, section in plain(config.get("evaluators", {})).items():
        place, fields = f"evaluators.{name}", dict(section)
        kind, every = fields.pop("name", name), fields.pop("every_images", 0)
        require_ranges(place, {"every_images": every}, {"every_images": count(0, "0 is never")})
        if kind not in EVALUATORS:
            raise UserError(f"{place}.name {kind!r} is not one of {', '.join(EVALUATORS)}")
        try:
            evaluator = EVALUATORS[kind](config, setup, name, **fields)
        except TypeError as error:
            raise UserError(f"{place}, {kind}: {error}") from error
        yield Evaluation(
            evaluator,
            every_images=every,
            batch_size=config.training.batch_size,
            recipe=setup.recipe,
            networks=roles,
        )


def held_out_loss(
    config, setup: Setup, name: str, *, split: str = "test", batches: int = 4
) -> Evaluator:
    """Measure the loss on the first batches of another split, the same each time."""
    place = f"evaluators.{name}"
    require_ranges(place, {"batches": batches}, {"batches": count(1)})
    batch_size = config.training.batch_size
    source = source_of(config, split=split)
    seed = checked_seed(config.seed)
    rows = setup.layout.rows(batch_size)

    def read() -> list[dict[str, Any]]:
        pipeline = input_pipeline.Pipeline(source, batch_size, seed=seed, rows=rows)
        with contextlib.closing(pipeline):
            stream = loop.Conditioned(pipeline, lambda condition, index: condition)
            return [next(stream) for _ in range(batches)]

    return HeldOutLoss(
        setup.recipe.objective.loss,
        read,
        batch_size=batch_size,
        key=root_key(seed),
        layout=setup.layout,
        name=name,
    )


def frechet(
    config,
    setup: Setup,
    name: str,
    *,
    samples: int = 256,
    steps: int = 16,
    features: str = "pixels",
) -> Evaluator:
    """Measure the Frechet distance between few samples and the data.

    Args:
        config, setup, name: of the run.
        samples: how many are made each time.
        steps: of Heun's solver, over the network's own noise levels.
        features: ``pixels``, or a classifier's weights.
    """
    from .. import guidance
    from ..data.images import to_uint8
    from ..evaluation.few_samples import FrechetEvaluator
    from ..evaluation.metrics.frechet import moments_of_batches
    from .lcsc import features_of, read_in_parts

    place = f"evaluators.{name}"
    ranges = {"samples": count(2), "steps": count(2)}
    require_ranges(place, {"samples": samples, "steps": steps}, ranges)
    spec = setup.specs[MAIN]
    named = isinstance(spec.condition, Mapping)
    if spec.preconditioner is None or spec.latent or len(spec.shape) != 3 or named:
        raise UserError(f"{place}: frechet is of images that a network makes of noise and classes")
    extract = features_of(features)
    real = moments_of_batches(map(extract, read_in_parts(source_of(config))))
    prior = prior_of(setup.recipe.objective)
    seed = checked_seed(config.seed)

    def sample(networks: Mapping[str, Role], indices: np.ndarray) -> np.ndarray:
        index = jnp.asarray(indices)
        keys = sample_keys(root_key(seed), NOISE, index)
        made = samplers.sample(
            networks[MAIN].denoiser,
            guidance.unguided(),
            samplers.heun(),
            samplers.karras(steps, *spec.sigma_range),
            unit_noise(keys, spec.shape),
            index % spec.num_classes if spec.num_classes else None,
            keys,
            prior=prior,
        )
        return to_uint8(np.asarray(jax.device_get(made)))

    return FrechetEvaluator(
        extract, real, sample, samples=samples, batch_size=SAMPLES_AT_ONCE, name=name
    )


EVALUATORS = {"held_out_loss": held_out_loss, "frechet": frechet}
