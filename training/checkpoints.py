"""Checkpoints of a training run: the whole state, the data position and the config's identity."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint.experimental import v1 as ocp

from ..errors import UserError

# Less free space than this many times the state's size, and a save is refused before it starts.
SPACE_FACTOR = 1.5


class Checkpoints:
    """Numbered checkpoints below ``directory``, written asynchronously and atomically by orbax.

    Args:
        directory: where they live; created when missing.
        identity: what must agree for a checkpoint to be continued (model, loss, optimiser), as
            JSON data; stored beside the checkpoints at the first save.
        keep: how many of the newest to keep.
    """

    def __init__(self, directory: Path, identity: dict, *, keep: int = 2):
        self.directory = Path(directory).absolute()
        self.identity = json.loads(json.dumps(identity))
        self._check_identity()
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        if jax.process_index() == 0:
            (self.directory / "identity.json").write_text(json.dumps(self.identity, indent=1))

    def _check_identity(self) -> None:
        path = self.directory / "identity.json"
        if not path.exists():
            return
        stored = json.loads(path.read_text())
        wrong = sorted(
            key
            for key in stored.keys() | self.identity.keys()
            if stored.get(key) != self.identity.get(key)
        )
        if wrong:
            key = wrong[0]
            raise UserError(
                f"{self.directory} holds checkpoints of another run: {key} was "
                f"{stored.get(key)!r} there and is {self.identity.get(key)!r} here. Choose "
                f"another --workdir, or give the config that the run was started with"
            )

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, position: dict, *, wait: bool = False) -> None:
        """Write one checkpoint.

        Args:
            step: its number.
            state: pytree of arrays.
            position: the input pipeline's state, JSON data.
            wait: return only once it is on disk.

        Raises:
            UserError: the disk has no room for it; the last good checkpoint stays.
        """
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < SPACE_FACTOR * size:
            raise UserError(
                f"{self.directory} has {free / 2**20:.0f} MiB free and a checkpoint needs "
                f"{SPACE_FACTOR * size / 2**20:.0f} MiB: free some space and run the same "
                f"command again; it continues from step {self.latest_step or 0}"
            )
        metadata = {"position": position}
        try:
            self._checkpointer.save_async(step, state, custom_metadata=metadata)
            if wait:
                self._checkpointer.wait()
        except OSError as error:
            raise UserError(
                f"writing checkpoint {step} to {self.directory} failed ({error.strerror}): mend "
                f"that and run the same command again; it continues from the last good one"
            ) from error

    def restore(self, abstract: Any) -> tuple[Any, dict]:
        """Read the newest checkpoint.

        Args:
            abstract: pytree of `jax.ShapeDtypeStruct` as the state should come back.

        Returns:
            The state and the input pipeline's position.
        """
        latest = self._checkpointer.latest
        state = self._checkpointer.load(latest, abstract)
        return state, self._checkpointer.metadata(latest).custom_metadata["position"]

    def close(self) -> None:
        """Wait for writes in flight."""
        self._checkpointer.close()
