"""From a folder of pictures to a data set of squares of one size."""

import functools
import math
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.files import digest_of, home, write_text
from . import record_folder
from .image_folder import Say, ignore, kinds_of, labelled, printable, square

# Raised when pictures come out as other pixels than before, so that no set mixes the two.
VERSION = 2
# What `image_folder.square` does, as statistics of a set say it.
CUT = {
    "resize": "halved by averaging, then bicubic",
    "crop": "centre square",
    "rounding": "nearest of 256 levels, after each resize",
    "preparation": VERSION,
}
NOTED = "unreadable.txt"
# Fewer pictures are cut sooner than processes start.
ALONE = 400
# Pictures beyond what may be unreadable, after which no more are looked for.
ENOUGH = 1000


def prepare_pictures(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    size: int,
    channels: int = 3,
    records_per_shard: int = 10_000,
    most_damaged: float = record_folder.MOST_DAMAGED,
    say: Say = ignore,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> None:
    """Write the pictures below a folder as a data set; see `image_folder` for what they are.

    The same call goes on with the shards that are missing. Where pictures were added, removed or
    given other labels since, all of them are made anew. Pictures that cannot be read are named
    and left out, up to a share of ``most_damaged``.

    Args:
        source: where the pictures are.
        folder: becomes the data set.
        size: side of the squares, in pixels.
        channels: 1 or 3.
        records_per_shard: examples a file.
        most_damaged: share of pictures that may be unreadable.
        say: is told, line by line, what is made and what is left out.
        progress: is given how many pictures are done, and of how many.

    Raises:
        UserError: no pictures, labels that do not fit, too many that cannot be read, a folder
            that holds something else, or no space for them.
    """
    _check(source, size, channels, records_per_shard, most_damaged)
    pictures, target = home(source), home(folder)
    if pictures.is_dir() and _below(target, pictures):
        raise UserError(
            f"the data set would lie among its pictures, in {printable(target)}: choose a "
            f"--workdir outside of {printable(pictures)}"
        )
    files, names = labelled(pictures, say)
    # Neighbours in the listing are of one class: shards hold a mixture.
    order = np.random.default_rng(0).permutation(len(files))
    chosen = [files[index] for index in order]
    shape = (size, size, channels)
    description = dict(
        shape=shape,
        dtype="uint8",
        num_classes=len(names),
        classes=names,
        pictures=len(files),
        listing=digest_of([[printable(file), label] for file, label in files]),
        records_per_shard=records_per_shard,
        preparation=VERSION,
    )
    if record_folder.holds(target, description):
        say(f"nothing to do: {printable(target)} already holds these {len(files):,} pictures")
        return
    record_folder.require_space(target, len(files), description)
    _require_memory(min(len(files), records_per_shard), shape)
    writer = record_folder.Writer(
        target,
        description,
        content=("num_classes", "classes", "pictures", "listing", "preparation", "source"),
        origin=printable(pictures.absolute(), 10_000),
    )
    if writer.renewed:
        say(
            f"pictures or labels have changed since {writer.renewed} shards were made: all are "
            f"made anew"
        )
    parts = [
        chosen[begin : begin + records_per_shard]
        for begin in range(0, len(chosen), records_per_shard)
    ]
    todo = [number for number in range(len(parts)) if not writer.has(number)]
    say(
        f"{len(files):,} pictures of {len(names)} classes in {printable(pictures)} "
        f"({kinds_of(file for file, _ in files)}), to {len(parts)} shards in {printable(target)}, "
        f"{len(todo)} still to make"
    )
    cut = functools.partial(_cut, pictures, size, channels)
    unreadable, notes, left = _make(writer, parts, todo, cut, most_damaged, progress)
    for note, count in sorted(notes.items()):
        say(f"{count:,} pictures: {note}")
    writer.finish(len(parts), unreadable=unreadable, source=printable(pictures.name), prepared=CUT)
    (target / NOTED).unlink(missing_ok=True)
    gone = [names[label] for label in sorted({label for _, label in files} - left)]
    if gone:
        say(f"{len(gone)} classes have no picture that can be read: {', '.join(gone[:10])}")
    if unreadable:
        say(f"{len(unreadable)} pictures could not be read and are left out: {_some(unreadable)}")


def _check(source, size, channels, records_per_shard, most_damaged) -> None:
    if not os.fspath(source).strip():
        raise UserError("prepare.source is empty: name the folder of pictures")
    whole = all(type(number) is int for number in (size, channels, records_per_shard))
    if not whole or size < 1 or channels not in (1, 3) or records_per_shard < 1:
        raise UserError(
            f"prepare: size {size}, channels {channels} and records_per_shard {records_per_shard} "
            f"make no data set: give a size, 1 or 3 channels, and 1 record a shard or more"
        )
    if not 0 <= most_damaged <= 1:
        raise UserError(
            f"prepare.most_damaged {most_damaged} is a share: give a number from 0 to 1"
        )


def _below(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path.resolve(), *path.resolve().parents)


def _require_memory(records: int, shape: tuple[int, ...]) -> None:
    needed, free = records * math.prod(shape), _free_memory()
    if needed > free:
        raise UserError(
            f"a shard of {records:,} pictures of {shape[0]}x{shape[1]}x{shape[2]} is made in "
            f"memory, of which {free / 2**20:,.0f} MiB are free, and takes "
            f"{needed / 2**20:,.0f}: set prepare.records_per_shard to "
            f"{max(1, free // math.prod(shape)):,} or less"
        )


def _free_memory() -> int:
    """Return the free memory in bytes; more than there is where the system does not say."""
    try:
        (kibibytes,) = re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        return int(kibibytes) * 1024
    except (ValueError, OSError):
        return 2**60


def _make(
    writer: record_folder.Writer,
    parts: list[list[tuple[str, int]]],
    todo: list[int],
    cut: Callable,
    most_damaged: float,
    progress: Callable[[int, int], Any],
) -> tuple[list[str], Counter, set[int]]:
    """Write shards; return what could not be read, how many pictures needed what, and labels.

    The labels are those of which there are pictures; shards that were there are taken to hold all
    of theirs.
    """
    count = sum(map(len, parts))
    done, allowed = count - sum(len(parts[number]) for number in todo), int(most_damaged * count)
    unreadable, notes = _noted(writer), Counter()
    left = {label for number, part in enumerate(parts) if number not in todo for _, label in part}
    with _mapping(sum(len(parts[number]) for number in todo)) as run:
        for number in todo:
            arrays, labels = [], []
            results = run(cut, parts[number])
            for (_, label), (pixels, told) in zip(parts[number], results, strict=True):
                if pixels is None:
                    unreadable += [(number, line) for line in told]
                else:
                    arrays.append(pixels)
                    labels.append(label)
                    notes.update(told)
            left.update(labels)
            done += len(parts[number])
            progress(done, count)
            lines = [f"{shard:05d} {line}\n" for shard, line in unreadable]
            write_text(writer.folder / NOTED, "".join(lines))
            if len(unreadable) <= allowed:
                writer.write(number, arrays, labels)
            elif len(unreadable) > allowed + ENOUGH:
                break
            # Else the rest is looked through, so that all are named at once.
    named = sorted(line for _, line in unreadable)
    if len(named) > allowed:
        raise UserError(
            f"{len(named)} of {count} pictures cannot be read, more than "
            f"prepare.most_damaged={most_damaged:g} lets pass: {_some(named)}. All "
            f"are named in {printable(writer.folder / NOTED)}: mend or remove them (and what a "
            f"list of labels says of them) and run the same command again, or raise "
            f"prepare.most_damaged"
        )
    return named, notes, left


def _noted(writer: record_folder.Writer) -> list[tuple[int, str]]:
    """Return what earlier calls left out of shards that are there, with the shard's number.

    What they left out of others may have been mended since.
    """
    path = writer.folder / NOTED
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [(int(line[:5]), line[6:]) for line in lines if re.match(r"\d{5} ", line)]
    return [(shard, line) for shard, line in pairs if writer.has(shard)]


class _mapping:
    """A context whose value maps a function over pictures, in processes where there are many."""

    def __init__(self, count: int):
        self._count = count

    def __enter__(self) -> Callable:
        self._pool = None
        if self._count > ALONE:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(os.cpu_count(), context)
        return self._run

    def __exit__(self, *exception) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _run(self, function: Callable, items: list) -> Iterator:
        if self._pool is None:
            return map(function, items)
        try:
            return iter(list(self._pool.map(function, items, chunksize=64)))
        except BrokenExecutor as error:
            raise UserError(
                "a process that reads pictures was ended, as the system does when memory is "
                "short: run the same command again, it goes on; give prepare fewer records_per_"
                "shard, or move the largest pictures away, where it happens again"
            ) from error


def _cut(
    source: Path, size: int, channels: int, picture: tuple[str, int]
) -> tuple[np.ndarray | None, list[str]]:
    """Return a picture's pixels and what was done to it, or None and what is wrong with it."""
    file, told = picture[0], []
    try:
        return square(source / file, size, channels, told.append), told
    except ValueError as error:
        return None, [f"{printable(file)}: {error}"]


def _some(lines: list[str]) -> str:
    return "; ".join(lines[:10]) + f"; and {len(lines) - 10} others" * (len(lines) > 10)
