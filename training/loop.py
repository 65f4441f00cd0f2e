"""The loop of a training run: steps, checkpoints, records, and what looks on. No mathematics."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from .. import input_pipeline
from ..core.errors import UserError
from ..runtime.checkpointer import Checkpoints
from ..runtime.distributed import Termination
from ..runtime.metric_writer import Journal
from ..runtime.sharding import Layout
from .state import TrainState
from .watchers import Watcher

# Steps timed after compilation, for the estimate of how long the run will take.
TIMED_STEPS = 5


@runtime_checkable
class Batches(Protocol):
    """An endless stream of batches whose place can be stored."""

    def __next__(self) -> Mapping[str, Any]: ...

    def state(self) -> Mapping[str, int]:
        """Return the position after the last batch handed out."""
        ...


def run(
    advance: Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, dict[str, Any]]],
    state: TrainState,
    batches: Batches,
    *,
    total: int,
    batch_size: int,
    layout: Layout,
    checkpoints: Checkpoints,
    save_every: int,
    journal: Journal,
    record_every: int,
    watchers: Sequence[Watcher] = (),
    termination: Termination,
    seed: int,
    say: Callable[[str], Any],
) -> TrainState:
    """Advance from ``state.step`` to the last step.

    Args:
        advance: the compiled step; it takes the state's place in memory.
        state: before the first step that is left.
        batches: what each step trains on.
        total: the last step, counted from 1.
        batch_size: examples a step, over all hosts.
        layout: of the devices.
        checkpoints: what is saved every ``save_every`` steps, and at the end.
        save_every: 1 or more.
        journal: what is recorded every ``record_every`` steps, and at the end.
        record_every: 0 for the last step alone.
        watchers: what looks at the state.
        termination: a request to stop.
        seed: stored beside the state.
        say: is told how long it will take, and where it stopped.

    Returns:
        The final state.

    Raises:
        UserError: a loss that is not finite (with the step and the last good checkpoint), or a
            checkpoint that could not be written.
        SystemExit: with status 0, after a request to stop and a checkpoint.
    """
    started, waited, first = time.monotonic(), 0.0, int(jax.device_get(state.step)) + 1
    compiled = started
    for step in range(first, total + 1):
        before = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - before
        # What moves data unasked at every step is slow and silent: it is an error here.
        with jax.transfer_guard("disallow"):
            state, metrics = advance(state, layout.place(batch, batch_size))
        journal.advance()
        if _every(step, record_every) or step == total:
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
            say(
                f"compiled in {compiled - started:.0f} s; {each:.3f} s a step, so about "
                f"{each * (total - step) / 60:.0f} min to step {total}"
            )
        loss = metrics["loss"]
        for watcher in watchers:
            if watcher.due(step, last=step == total):
                _stop_if_not_finite({"loss": float(jax.device_get(loss))}, step, checkpoints)
                journal.note(step, watcher.run(step, state))
        last = termination.requested(step)
        if _every(step, save_every) or step == total or last:
            # A state that is not finite must never replace a good checkpoint.
            _stop_if_not_finite({"loss": float(jax.device_get(loss))}, step, checkpoints)
            extra = {"position": batches.state(), "random": {"seed": seed, "step": step}}
            checkpoints.save(step, state, extra, wait=step == total or last)
        checkpoints.raise_if_failed()
        if last and step < total:
            say(
                f"stopped by SIGTERM: step {step} is saved in {checkpoints.directory}; the same "
                f"command goes on from there"
            )
            # Whatever was to follow training must not run.
            raise SystemExit(0)
    say(journal.summary())
    return state


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _stop_if_not_finite(values: dict[str, float], step: int, checkpoints: Checkpoints) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            good = checkpoints.latest_step
            last = f"step {good} in {checkpoints.directory}" if good else "none was written yet"
            raise UserError(
                f"{name} is {value} at step {step}; the last good checkpoint is {last}. Lower "
                f"optimizer.learning_rate or optimizer.clip_norm and use a new --workdir"
            )


class Conditioned:
    """Batches as a network is trained on them: what is left of its condition after dropout.

    Args:
        batches: an `input_pipeline.Pipeline`.
        drop: ``(condition, index) -> condition``.
    """

    def __init__(self, batches: input_pipeline.Pipeline, drop: Callable[[Any, np.ndarray], Any]):
        self._batches, self._drop = batches, drop

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """Return ``x`` and ``condition`` of the next batch."""
        batch = next(self._batches)
        condition = self._drop(batch["condition"], batch["index"])
        return {"x": np.asarray(batch["x"]), "condition": condition}

    def state(self) -> Mapping[str, int]:
        """Return the position after the last batch handed out."""
        return self._batches.state()
