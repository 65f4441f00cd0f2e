"""A run's record: one JSON line per logged step, TensorBoard beside it, a progress bar."""

import json
import os
import time
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm


class Journal:
    """Write metrics of a run and show its progress.

    Args:
        workdir: ``metrics.jsonl`` and ``tensorboard/`` are kept below it.
        start: the step the run continues from; lines of later steps, left by a run that was
            killed after its last checkpoint, are removed.
        total: the run's last step.
        batch_size: images a step, for images/s.
        tensorboard: also write TensorBoard events.
    """

    def __init__(
        self, workdir: Path, *, start: int, total: int, batch_size: int, tensorboard: bool
    ):
        self.path = workdir / "metrics.jsonl"
        self._truncate(start)
        self._file = self.path.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard")) if tensorboard else None
        self._bar = tqdm(initial=start, total=total, unit="step", dynamic_ncols=True, mininterval=1)
        self._batch_size, self._last = batch_size, (start, time.monotonic())

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
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(kept))
        os.replace(partial, self.path)

    def advance(self) -> None:
        """Move the progress bar by one step."""
        self._bar.update(1)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record ``metrics`` at ``step``, with images/s since the last record."""
        then, before = self._last
        now = time.monotonic()
        rate = (step - then) * self._batch_size / max(now - before, 1e-9)
        self._last = (step, now)
        record = {"step": step, "images": step * self._batch_size, "images_per_second": rate}
        record |= metrics
        self._file.write(json.dumps(record) + "\n")
        if self._board:
            for name, value in record.items():
                self._board.add_scalar(name, value, step)
        shown = {k: f"{v:.4g}" for k, v in metrics.items()}
        self._bar.set_postfix(shown | {"img/s": f"{rate:.0f}"})

    def image(self, step: int, name: str, grid) -> None:
        """Add a picture, uint8 [height, width, channels], to TensorBoard."""
        if self._board:
            self._board.add_image(name, grid, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close everything."""
        self._bar.close()
        self._file.close()
        if self._board:
            self._board.close()
