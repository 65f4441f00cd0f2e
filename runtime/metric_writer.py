"""A run's record: one JSON line per logged step, a progress bar, a last line that sums it up.

TensorBoard and Weights & Biases get the same numbers where a config asks for them.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from ..core.errors import UserError
from ..core.files import write_text
from .speed import memory_bytes


class Journal:
    """Write metrics of a run and show its progress.

    Args:
        workdir: ``metrics.jsonl`` and ``tensorboard/`` are kept below it.
        start: the step the run continues from; lines of later steps, left by a run that was
            killed after its last checkpoint, are removed.
        total: the run's last step.
        batch_size: images a step, over all hosts.
        tensorboard: also write TensorBoard events.
        wandb: project of Weights & Biases that the run is logged to; none if empty.
        name: the run's, for the last line and for Weights & Biases.
        facts: what Weights & Biases keeps beside the run, JSON data.
        macs: multiply-adds of a step, over all devices.
        peak: multiply-adds a second that all devices could do; None where it isn't known.
        writes: whether this process keeps the record; others only count.

    Raises:
        UserError: Weights & Biases is asked for and not installed.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        total: int,
        batch_size: int,
        tensorboard: bool,
        wandb: str = "",
        name: str = "",
        facts: Mapping[str, Any] | None = None,
        macs: int = 0,
        peak: float | None = None,
        writes: bool = True,
    ):
        self.path = workdir / "metrics.jsonl"
        self._name, self._total, self._macs, self._peak = name, total, macs, peak
        self._batch_size, self._start = batch_size, start
        self._began = time.monotonic()
        self._last, self._latest = (start, self._began), {}
        self._file = self._board = self._tracker = None
        self._bar = tqdm(
            initial=start,
            total=total,
            unit="step",
            dynamic_ncols=True,
            mininterval=1 if sys.stderr.isatty() else 30,
            disable=not writes,
        )
        if writes:
            self._tracker = _weights_and_biases(wandb, name, facts, workdir) if wandb else None
            self._truncate(start)
            self._file = self.path.open("a", buffering=1)
            self._board = _board(workdir / "tensorboard", start) if tensorboard else None

    def _truncate(self, start: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):
                continue  # a line cut short by a kill
        write_text(self.path, "".join(kept))

    def advance(self) -> None:
        """Move the progress bar by one step."""
        self._bar.update(1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record ``metrics`` at ``step``, with the run's speed since the last record.

        Beside them a record has the images so far, images/s, multiply-adds/s and their share of
        the devices' peak where it is known, memory in bytes and the seconds that are left.
        """
        then, before = self._last
        now = time.monotonic()
        self._last = (step, now)
        speed = self._speed(step - then, now - before)
        record = {"step": step, "images": step * self._batch_size} | speed
        record |= {
            "memory_bytes": memory_bytes(),
            "seconds_left": (self._total - step) * (now - before) / max(step - then, 1),
        } | dict(metrics)
        self._latest = dict(metrics)
        if self._file:
            self._file.write(json.dumps(record) + "\n")
        if self._board:
            for name, value in record.items():
                self._board.add_scalar(name, value, step)
        if self._tracker:
            self._tracker.log(record, step=step)
        shown = {k: f"{v:.4g}" for k, v in metrics.items()}
        shown["img/s"] = f"{speed['images_per_second']:.0f}"
        if "share_of_peak" in speed:
            shown["peak"] = f"{speed['share_of_peak']:.0%}"
        self._bar.set_postfix(shown)

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Record what was measured at ``step`` beside training, in a line of its own."""
        if not values:
            return
        record = {"step": step, "images": step * self._batch_size} | dict(values)
        if self._file:
            self._file.write(json.dumps(record) + "\n")
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._tracker:
            self._tracker.log(record, step=step)

    def _speed(self, steps: int, seconds: float) -> dict[str, float]:
        seconds = max(seconds, 1e-9)
        speed = {"images_per_second": steps * self._batch_size / seconds}
        if self._macs:
            speed["macs_per_second"] = steps * self._macs / seconds
            if self._peak:
                speed["share_of_peak"] = speed["macs_per_second"] / self._peak
        return speed

    def summary(self) -> str:
        """Return what the run did in a line: steps, time, speed, memory, last metrics."""
        step, _ = self._last
        seconds = time.monotonic() - self._began
        speed = self._speed(step - self._start, seconds)
        parts = [
            f"{self._name or 'run'}: steps {self._start} to {step} of {self._total} in "
            f"{seconds / 60:.1f} min",
            f"{speed['images_per_second']:.0f} images/s",
        ]
        if self._macs:
            share = speed.get("share_of_peak")
            of_peak = f" ({share:.1%} of the peak)" if share is not None else ""
            parts.append(f"{speed['macs_per_second'] / 1e9:.3g} G multiply-adds/s{of_peak}")
        if "input_wait_share" in self._latest:
            parts.append(f"waiting for input {self._latest['input_wait_share']:.1%}")
        parts.append(f"memory {memory_bytes() / 2**30:.2f} GiB")
        if "loss" in self._latest:
            parts.append(f"loss {self._latest['loss']:.4g}")
        return ", ".join(parts)

    def image(self, step: int, name: str, grid) -> None:
        """Add a picture, uint8 [height, width, channels], to TensorBoard."""
        if self._board:
            self._board.add_image(name, grid, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close everything."""
        self._bar.close()
        for one in (self._file, self._board):
            if one:
                one.close()
        if self._tracker:
            self._tracker.finish()


def _board(folder: Path, start: int) -> SummaryWriter:
    """Open TensorBoard's record, and hide what an earlier run wrote of steps after ``start``."""
    return SummaryWriter(str(folder), purge_step=start + 1 if folder.exists() else None)


def _weights_and_biases(project: str, name: str, facts: Mapping | None, workdir: Path):
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"log.wandb={project} needs Weights & Biases: pip install wandb, or leave it empty"
        ) from error
    identity = workdir / "wandb_id"
    resumed = identity.read_text().strip() if identity.exists() else None
    run = wandb.init(
        project=project, name=name, config=dict(facts or {}), id=resumed, resume="allow",
        dir=str(workdir),
    )  # fmt: skip
    with contextlib.suppress(OSError):
        identity.write_text(run.id)
    return run
