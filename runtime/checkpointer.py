"""Checkpoints of a training run: the whole state, the data position, the config's identity.

A checkpoint is a folder named by its step. It is written under another name by every process at
once, each its own part, described by a manifest (`runtime.manifest`), and renamed when it is
whole. ``run.json`` beside the folder of checkpoints says which run this is and how far it was
saved, so that checkpoints that are gone are missed.
"""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from orbax.checkpoint.experimental import v1 as ocp

from ..core.checks import count, require_ranges
from ..core.errors import UserError
from ..core.files import sync_folder, write_json
from . import distributed, manifest
from .identity import changed_code, differences

# Less free space than this many times the state's size, and a save is refused before it starts.
SPACE_FACTOR = 1.5
RANGES = {
    "every_steps": count(1),
    "keep": count(1, "2, so that a damaged one has one before it"),
    "keep_every_steps": count(0, "0 is none"),
}
UNFINISHED, DISCARDED, DAMAGED = "unfinished-", "discarded-", "damaged-"


# The shapes of a state in another form, and what makes of it one of today.
Earlier = tuple[Any, Callable[[Any], Any]]


class Checkpoints:
    """Numbered checkpoints below ``directory``, written asynchronously and atomically.

    Args:
        directory: where they live; created at the first `save`.
        identity: what must agree for a checkpoint to be continued (model, loss, optimiser), as
            JSON data; parts that it leaves out are not compared.
        keep: how many of the newest to keep.
        keep_every_steps: multiples of it are kept too; 0 for none.
        verify: how much of a file is compared when it is read, ``contents`` or ``sizes``.
        force: continue although the identity is another.
        begun: JSON data that says how the run was begun, kept in ``run.json`` and never compared.
        form: number of the state's form, stored with it; 1 in checkpoints that say none.
        upgraded: from an identity that was stored, perhaps by an earlier version, to the parts
            of today; and lines to say.
        say: is told what a person should know; ``say(message, error=True)`` of damage.

    Raises:
        UserError: checkpoints of another run, an unreadable ``run.json``, or a number out of range.
    """

    def __init__(
        self,
        directory: Path,
        identity: dict,
        *,
        keep: int = 2,
        keep_every_steps: int = 0,
        verify: str = "contents",
        force: bool = False,
        begun: Mapping[str, Any] | None = None,
        form: int = 1,
        upgraded: Callable[[dict], tuple[dict, tuple[str, ...]]] = lambda stored: (stored, ()),
        say: Callable[..., Any] = distributed.say,
    ):
        given = dict(keep=keep, keep_every_steps=keep_every_steps)
        require_ranges("checkpoint", given, RANGES)
        self._say, self._form, self._upgraded = say, form, upgraded
        self.directory = Path(directory).absolute()
        self._record = self.directory.parent / "run.json"
        self._identity = json.loads(json.dumps(identity))
        self._keep, self._keep_every = keep, keep_every_steps
        self._begun = dict(begun or {})
        self._verify = manifest.require_check(verify)
        self._newest = self._read_record(force)
        self._writer: threading.Thread | None = None
        self._writing: int | None = None
        self._failed: BaseException | None = None
        self._damaged: list[int] = []

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints that were finished, in increasing order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    @property
    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step, or None."""
        return max(self.steps, default=None)

    def claim(self) -> None:
        """Make the folder this run's, after `restore` and before the first `save`.

        What a killed run left half done is removed, and checkpoints that `restore` found damaged
        are put aside under another name.
        """
        if distributed.is_primary():
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self.directory.iterdir():
                if path.name.startswith((UNFINISHED, DISCARDED)):
                    shutil.rmtree(path, ignore_errors=True)
            for step in self._damaged:
                self._put_aside(step)
            self._write_record(self.latest_step)
        distributed.meet("checkpoints claimed")

    def save(self, step: int, state: Any, extra: dict, *, wait: bool = False) -> None:
        """Write one checkpoint, after the one before it is written.

        Args:
            step: its number; one that is already there is not written again.
            state: pytree of arrays.
            extra: what else a run continues from (the input pipeline's position), JSON data.
            wait: return only once it is on disk.

        Raises:
            UserError: the disk has no room for it, or this one or the one before could not be
                written; the last good checkpoint stays.
        """
        self.wait()
        if distributed.from_primary(int(step in self.steps)):
            return
        self._require_space(state)
        unfinished = self.directory / f"{UNFINISHED}{step}"
        with self._explained(step):
            written = ocp.save_async(unfinished, state)
        self._writing = step
        self._writer = threading.Thread(
            target=self._finish, args=(written, unfinished, step, extra), name="checkpoint"
        )
        self._writer.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return once what was begun is on disk.

        Raises:
            UserError: it could not be written.
        """
        self._join()
        failed = distributed.from_all(int(self._failed is not None))
        self._raise()
        if any(failed):
            raise UserError(f"process {failed.index(1)} could not write checkpoint {self._writing}")

    def raise_if_failed(self) -> None:
        """Raise what went wrong with a checkpoint that is being written, if it is known here.

        With several processes that waits for the next `save`, where all of them learn of it.
        """
        if jax.process_count() == 1:
            self._raise()

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _raise(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            with self._explained(self._writing):
                raise failed

    def restore(
        self, abstract: Any, earlier: Mapping[int, Earlier] = MappingProxyType({})
    ) -> tuple[int, Any, dict] | None:
        """Read the newest checkpoint that is whole, naming those that are not; change nothing.

        Args:
            abstract: pytree of `jax.ShapeDtypeStruct` as the state should come back, on any
                devices and with any sharding.
            earlier: by the number of an earlier form, the state's shapes in it and what makes of
                such a state one of today.

        Returns:
            Its step, the state and what else was saved; None if nothing was ever saved.

        Raises:
            UserError: there were checkpoints and none can be read, or the state has another
                structure.
        """
        steps, problems = self._agreed_steps(), {}
        for step in reversed(steps):
            found = self._damage(step)
            if found is None:
                self._tell(step, problems)
                said = manifest.read(self.directory / str(step))
                assert not isinstance(said, str)
                form = said.get("form", 1)
                if form not in (self._form, *earlier):
                    raise UserError(
                        f"checkpoint {step} in {self.directory} is of another version of this "
                        f"project (form {form} of the state): continue it with that version"
                    )
                shapes, today = earlier.get(form, (abstract, lambda state: state))
                return step, today(self._load(step, shapes)), said["extra"]
            problems[step] = found
        newest = max([*steps, *([self._newest] if self._newest else [])], default=None)
        if newest is None:
            return None
        what = "; ".join(f"{step}: {found}" for step, found in problems.items())
        raise UserError(
            f"{self.directory} should hold step {newest} and no checkpoint there can be read "
            f"({what or 'all are gone'}). What was trained up to step {newest} is lost unless the "
            f"files come back: restore them from a copy and run the same command, or begin again "
            f"with another --workdir. Nothing was changed"
        )

    def close(self) -> None:
        """Wait for writes in flight."""
        self._join()
        self._raise()

    def _agreed_steps(self) -> list[int]:
        steps = self.steps
        count = distributed.from_primary(len(steps))
        # A process that sees less of a shared folder than the primary waits for no one.
        steps = (steps + [0] * count)[:count]
        return [distributed.from_primary(step) for step in steps]

    def _damage(self, step: int) -> str | None:
        """Return in words what is wrong with a checkpoint; each process looks at some files."""
        folder = self.directory / str(step)
        found = manifest.read(folder)
        files = [] if isinstance(found, str) else sorted(found["files"].items())
        problem = found if isinstance(found, str) else None
        for name, entry in files[jax.process_index() :: jax.process_count()]:
            problem = problem or manifest.damage(folder, name, entry, self._verify)
        bad = distributed.from_all(int(problem is not None))
        if problem is None and any(bad):
            return f"process {bad.index(1)} found it damaged"
        return problem

    def _tell(self, step: int, problems: dict[int, str]) -> None:
        """Name the checkpoints that are passed over."""
        self._damaged = list(problems)
        for damaged, found in problems.items():
            self._say(
                f"checkpoint {damaged} is damaged: {found}; going on from step {step}", error=True
            )
        if self._newest and self._newest > step and self._newest not in problems:
            self._say(
                f"checkpoint {self._newest} was saved and is gone from {self.directory}; going on "
                f"from step {step}",
                error=True,
            )

    def _put_aside(self, step: int) -> None:
        names = (f"{DAMAGED}{step}{more}" for more in ("", *(f"-{n}" for n in range(2, 1000))))
        aside = next(path for name in names if not (path := self.directory / name).exists())
        (self.directory / str(step)).rename(aside)
        self._say(f"the damaged checkpoint {step} is kept as {aside}", error=True)

    def _load(self, step: int, abstract: Any) -> Any:
        try:
            return ocp.load(self.directory / str(step), abstract)
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                f"checkpoint {step} in {self.directory} passed its check ({self._verify}) and "
                f"cannot be loaded for this config: {' '.join(reason[:4])}. Continue it with the "
                f"config it was written with, or choose another --workdir"
            ) from error

    def _finish(self, written, unfinished: Path, step: int, extra: dict) -> None:
        """Describe, rename and make room, once all processes have written (in a thread)."""
        try:
            written.result()
            if not distributed.is_primary():
                return
            contents = {"step": step, "extra": extra, "processes": jax.process_count()}
            contents["form"] = self._form
            manifest.write(unfinished, contents, self._verify)
            unfinished.rename(self.directory / str(step))
            sync_folder(self.directory)
            self._write_record(step)
            self._discard_old()
        except BaseException as error:
            self._failed = error
            if distributed.is_primary():
                shutil.rmtree(unfinished, ignore_errors=True)

    def _discard_old(self) -> None:
        for step in self.steps[: -self._keep]:
            if not self._keep_every or step % self._keep_every:
                # Renamed first: a folder half removed must not look like a checkpoint.
                discarded = self.directory / f"{DISCARDED}{step}"
                (self.directory / str(step)).rename(discarded)
                shutil.rmtree(discarded, ignore_errors=True)

    def _require_space(self, state: Any) -> None:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        # In MiB: one 32-bit number is what processes tell each other.
        free = distributed.from_primary(shutil.disk_usage(self.directory).free >> 20)
        if free < SPACE_FACTOR * size / 2**20:
            raise UserError(
                f"{self.directory} has {free} MiB free and a checkpoint needs "
                f"{SPACE_FACTOR * size / 2**20:.0f} MiB: {self._how_to_go_on('free some space')}"
            )

    @contextlib.contextmanager
    def _explained(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as failure:
            error: BaseException = failure
            if isinstance(failure, UserError):
                if not isinstance(failure.__cause__, OSError):
                    raise
                error = failure.__cause__
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"writing checkpoint {step} to {self.directory} failed ({reason}): "
                f"{self._how_to_go_on('mend that')}"
            ) from error

    def _how_to_go_on(self, first: str) -> str:
        newest = self.latest_step
        where = f"step {newest}" if newest else "the beginning, as nothing was saved yet"
        return f"{first} and run the same command again; it continues from {where}"

    def _write_record(self, newest: int | None) -> None:
        self._newest = newest
        record = {"newest": newest, "identity": self._identity, "begun": self._begun}
        write_json(self._record, record)

    def _read_record(self, force: bool) -> int | None:
        """Check whose checkpoints these are; return the newest step that was saved."""
        try:
            record = json.loads(self._record.read_text())
            stored, newest = record["identity"], record["newest"]
            if not isinstance(stored, dict):
                raise ValueError("its identity is no dictionary")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._record} cannot be read ({error}): it says which run this folder belongs "
                f"to. Restore it from a copy, or remove it if the config is the run's own"
            ) from error
        stored, lines = self._upgraded(stored)
        given = self._identity
        compared = {name: part for name, part in stored.items() if name in given}
        different = list(differences(compared, given))
        if different and not force:
            name, there, here = different[0]
            told = changed_code(name, there, here)
            told = told or f"{name} was {there!r} there and is {here!r} here"
            more = f" ({len(different) - 1} more differ)" if len(different) > 1 else ""
            raise UserError(
                f"{self.directory} holds checkpoints of another run: {told}{more}. Choose another "
                f"--workdir, or give the config that the run was started with; "
                f"checkpoint.force=True continues with this one"
            )
        for line in lines:
            self._say(line)
        for name, there, here in different:
            told = changed_code(name, there, here) or f"{name} was {there!r} and is {here!r}"
            self._say(f"forced: {told} from here on", error=True)
        return newest
