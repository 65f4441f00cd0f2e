"""Folders of examples of one size in ArrayRecord shards, with ``dataset.json`` beside them.

A record is the label, a little-endian int32, and the array's bytes in row-major order: nothing is
decoded, so a core reads tens of thousands a second. Each shard is renamed into place when it is
whole, and ``dataset.json`` comes last: a preparation that was interrupted goes on with the shards
that are missing, and what is unfinished is never taken for a data set.
"""

import json
import math
import os
import shutil
import threading
import uuid
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Int, Num

from ..core.errors import UserError
from ..core.files import home, read_json, sha256, write_json
from .source import AS_STORED, Source
from .splits import chosen_rows

FORMAT = 1
DESCRIPTION, BEGUN = "dataset.json", "unfinished.json"
DTYPES = {"uint8": np.uint8, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LABEL = np.dtype("<i4")
# One record a chunk: any record is read without its neighbours.
WRITING = "group_size:1,uncompressed"
READING = "readahead_buffer_size:0,max_parallelism:0"
# Of the records of a folder, the share that may be damaged before a run stops.
MOST_DAMAGED = 0.001
# Bytes on disk beside those of a record, and of a shard.
RECORD_OVERHEAD, SHARD_OVERHEAD = 128, 2**17
# Records of a shard that tell it from those of another set.
SAMPLED = 16


class Writer:
    """Write a folder shard by shard; shards that are already there are kept.

    Args:
        folder: created when missing.
        description: JSON data kept in ``dataset.json``: shape, dtype, num_classes and whatever
            else decides what the arrays are. What does not (names, paths) is for `finish`.
        content: keys of the description that say which examples there are.
        origin: where they were read. What was begun with other content from the same place, and
            is else alike, begins anew.

    Attributes:
        renewed: how many shards of other content were taken away.

    Raises:
        UserError: the folder holds a finished data set, or the beginning of another one; or it
            cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        *,
        content: Sequence[str] = (),
        origin: str = "",
    ):
        self.folder, self.renewed = Path(folder), 0
        self.description = _described(description)
        if (self.folder / DESCRIPTION).exists():
            raise UserError(
                f"{self.folder} already holds a data set: choose another folder, or move it away"
            )
        begun = self.folder / BEGUN
        if begun.exists():
            known = read_json(begun, f"remove {self.folder}, and run the same command again")
            place = known.pop("origin", "")
            if known == self.description:
                return
            keys = {*known, *self.description}
            other = sorted(k for k in keys if known.get(k) != self.description.get(k))
            if not origin or place != origin or not {*other} <= {*content}:
                raise UserError(
                    f"{self.folder} holds the beginning of a data set made with other settings or "
                    f"of other examples ({', '.join(other)}): give these again to go on with it, "
                    f"or choose another folder"
                )
            for shard in self.folder.glob("[0-9]*.array_record"):
                shard.unlink()
                self.renewed += 1
        write_json(begun, {**self.description, "origin": origin})

    def path(self, shard: int) -> Path:
        """Return a shard's file."""
        return self.folder / f"{shard:05d}.array_record"

    def has(self, shard: int) -> bool:
        """Say whether a shard is whole."""
        return self.path(shard).exists()

    def write(
        self, shard: int, arrays: Iterable[np.ndarray], labels: Iterable[int | np.integer]
    ) -> int:
        """Write one shard, whole or not at all; return its number of records."""
        path, count = self.path(shard), 0
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
        dtype, shape = DTYPES[self.description["dtype"]], tuple(self.description["shape"])
        try:
            writer = ArrayRecordWriter(str(partial), WRITING)
            for array, label in zip(arrays, labels, strict=True):
                array = np.ascontiguousarray(array, dtype)
                if array.shape != shape:
                    raise ValueError(f"a record of shape {array.shape} in a folder of {shape}")
                writer.write(LABEL.type(label).tobytes() + array.tobytes())
                count += 1
            writer.close()
            os.replace(partial, path)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"writing {path} failed: {str(error).partition(';')[0]}. Mend that and run the "
                f"same command again: it goes on with the shards that are missing"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return count

    def finish(self, shards: int, **facts: Any) -> None:
        """Declare the folder whole: count the records of all shards and write ``dataset.json``.

        Shards without records are left out.

        Raises:
            UserError: no records at all.
        """
        files = [
            {
                "file": shard.path.name,
                "records": len(shard),
                "bytes": shard.path.stat().st_size,
                "sha256": sha256(shard.path),
                "sampled_crc32": shard.sampled(),
            }
            for shard in (_Shard(self.path(number)) for number in range(shards))
            if len(shard)
        ]
        if not files:
            raise UserError(f"{self.folder}: no example is left to make a data set of")
        write_json(self.folder / DESCRIPTION, self.description | {"shards": files} | facts)
        (self.folder / BEGUN).unlink(missing_ok=True)
        for partial in self.folder.glob("*.partial"):  # of processes that were killed
            partial.unlink(missing_ok=True)


def _described(description: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({"format": FORMAT, **description}))


def require_space(folder: Path, count: int, description: Mapping[str, Any]) -> None:
    """Refuse a data set that the disk has no space for, shards that are there aside.

    Args:
        folder: where it is to be.
        count: its records.
        description: what `Writer` is given, with ``records_per_shard``.

    Raises:
        UserError: with what is needed and what is free.
    """
    folder, shape = Path(folder), description["shape"]
    there = sum(path.stat().st_size for path in folder.glob("[0-9]*.array_record"))
    each = math.prod(shape) * np.dtype(DTYPES[description["dtype"]]).itemsize + RECORD_OVERHEAD
    shards = math.ceil(count / description["records_per_shard"])
    needed = count * each + shards * SHARD_OVERHEAD - there
    disk = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise UserError(
            f"{count:,} examples of {'x'.join(map(str, shape))} need about "
            f"{needed / 2**20:,.0f} MiB and {folder} has {free / 2**20:,.0f} MiB free: choose "
            f"another --workdir, or fewer or smaller examples"
        )


def holds(folder: Path, description: Mapping[str, Any]) -> bool:
    """Say whether a folder is the finished data set of a description; False for none or a begun.

    What an earlier release did not write down is taken to be the same.

    Raises:
        UserError: it is a finished data set of another description.
    """
    if not (Path(folder) / DESCRIPTION).exists():
        return False
    if other := _unlike(describe(folder), _described(description)):
        raise UserError(
            f"{folder} already holds a data set, of other {', '.join(other)}: choose another "
            f"folder, or move it away"
        )
    return True


def _unlike(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the keys of what differs, in both and in mappings inside them."""
    found = []
    for key in wanted.keys() & known.keys():
        if isinstance(wanted[key], dict) and isinstance(known[key], dict):
            found += [f"{key}.{inner}" for inner in _unlike(known[key], wanted[key])]
        elif wanted[key] != known[key]:
            found.append(key)
    return sorted(found)


def is_one(folder: Path) -> bool:
    """Say whether a folder holds such a data set, finished or begun."""
    return any((home(folder) / name).is_file() for name in (DESCRIPTION, BEGUN))


def require_there(name: str, place: str) -> None:
    """Refuse the path of a folder that there is not; what may be a name, ``set/config``, passes.

    Args:
        name: as a person wrote it.
        place: where they did, for the message.

    Raises:
        UserError: it was moved, or is gone.
    """
    path, inside = home(name), Path(name).parts
    a_path = path.is_absolute() or name.startswith(".") or len(inside) > 2
    if (a_path or (len(inside) == 2 and path.parent.is_dir())) and not path.exists():
        raise UserError(
            f"{place} {name!r}: there is no such folder (any more): if it was moved, give the path "
            f"where it lies now, as it is known by its contents (and a name is set or set/config)"
        )


def describe(folder: Path) -> dict[str, Any]:
    """Return what ``dataset.json`` says.

    Raises:
        UserError: there is none, or it is damaged or of another version.
    """
    path = home(folder) / DESCRIPTION
    if not path.exists():
        raise UserError(
            f"{folder} is not a finished data set: run the command that makes it again, it goes on "
            f"where it stopped; --mode=prepare makes one of a folder of pictures"
        )
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, and this release reads {FORMAT}")
        if found["dtype"] not in DTYPES or not found["shards"]:
            raise ValueError("no shards, or of an unknown type")
        if not all(shard["records"] > 0 for shard in found["shards"]):
            raise ValueError("a shard without records")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): make the data set again") from error
    return found


def load(
    folder: Path, split: str = "train", *, most_damaged: float = MOST_DAMAGED, copies: int = 1
) -> Source:
    """Return a folder's examples as a data set, read as training goes.

    Args:
        folder: what `Writer` made.
        split: "train" for all of them, or a part, "train[:90%]"; see `splits.chosen_rows`.
        most_damaged: share of its records that may be damaged; each is named once and another
            taken in its place.
        copies: how many versions of the same examples follow one another (mirrored ones do), so
            that a part holds every version of what it chooses.

    Raises:
        UserError: not a finished data set, no such split, a shard that is missing, of another
            length or another set's, or a share outside [0, 1].
    """
    if not 0 <= most_damaged <= 1:
        raise UserError(f"data.most_damaged {most_damaged} is a share: give a number from 0 to 1")
    description = describe(folder)
    name = Path(folder).name
    count = sum(one["records"] for one in description["shards"]) // copies
    _, chosen = chosen_rows(split, {"train": count}, name)
    rows = (np.arange(copies)[:, None] * count + np.asarray(chosen)).reshape(-1)
    records = RecordFolder(folder, description, most_damaged, rows)
    return Source(
        name=name,
        shape=tuple(description["shape"]),
        num_classes=description["num_classes"],
        records=records,
        facts=lambda: records.facts() | {"rows": [chosen.start, chosen.stop]},
        prepared=_prepared(description),
    )


def _prepared(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return how examples were prepared; of earlier releases' folders, by which version alone."""
    if "prepared" in description:
        return dict(description["prepared"])
    known = description.get("preparation")
    return AS_STORED if known is None else {"preparation": known}


class RecordFolder:
    """Random access to a folder's records, or to chosen ones of them.

    Attributes:
        rows: which, in the order of their reading.
        damaged: numbers of the damaged records seen so far, with what is wrong with each.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        most_damaged: float,
        rows: Int[np.ndarray, " examples"],
    ):
        self.folder, self.rows = Path(folder), rows
        self._description = description
        self.shape, self.dtype = tuple(description["shape"]), DTYPES[description["dtype"]]
        self._size = LABEL.itemsize + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        self._shards = [_Shard(self.folder / one["file"]) for one in description["shards"]]
        counts = [one["records"] for one in description["shards"]]
        for shard, one in zip(self._shards, description["shards"], strict=True):
            count = one["records"]
            if len(shard) == count and not shard.may_be(one):
                raise UserError(
                    f"{shard.path} is not the shard that {DESCRIPTION} is of: the two were "
                    f"replaced one without the other. Copy the whole folder again, or make the "
                    f"data set again"
                )
            if len(shard) != count:
                raise UserError(
                    f"{shard.path} has {len(shard)} records and {DESCRIPTION} says {count}: copy "
                    f"it again, or make the data set again"
                )
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._limit = int(most_damaged * len(self))
        self._lock = threading.Lock()
        self.damaged: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def facts(self) -> dict[str, Any]:
        """Return JSON data that says what all the records are, whatever the folder's path."""
        said = {
            key: self._description[key] for key in ("dtype", "classes") if key in self._description
        }
        if latents := self._description.get("latents"):
            names = ("images", "file")  # of the data set and of the weights' file
            said["latents"] = {key: one for key, one in latents.items() if key not in names}
        shards = [
            [one["records"], one.get("sha256") or shard.sampled()]
            for one, shard in zip(self._description["shards"], self._shards, strict=True)
        ]
        return said | {"shards": shards}

    def read(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Num[np.ndarray, "batch ..."], Int[np.ndarray, " batch"]]:
        """Return the arrays at ``indices``, as stored, and their labels.

        Raises:
            UserError: more damaged records than may be; all that were seen are named.
        """
        indices = np.asarray(indices)
        records = self.rows[indices]
        raw: list[bytes | None] = [None] * len(indices)
        shards = np.searchsorted(self._starts, records, side="right") - 1
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            numbers = records[places] - self._starts[shard]
            found = self._records(int(shard), numbers, indices[places])
            for place, record in zip(places, found, strict=True):
                raw[place] = record
        joined = np.frombuffer(b"".join(raw), np.uint8).reshape(len(indices), self._size)
        labels = joined[:, : LABEL.itemsize].copy().view(LABEL)[:, 0].astype(np.int32)
        arrays = np.ascontiguousarray(joined[:, LABEL.itemsize :]).view(self.dtype)
        return arrays.reshape(len(indices), *self.shape), labels

    def _records(
        self, shard: int, numbers: Int[np.ndarray, " n"], indices: Int[np.ndarray, " n"]
    ) -> list[bytes]:
        try:
            found = self._shards[shard].read([int(number) for number in numbers])
            if all(len(record) == self._size for record in found):
                return found
        except (RuntimeError, OSError):
            pass  # one of them is damaged: which, is seen by reading them one by one
        return [self._undamaged(int(index)) for index in indices]

    def _undamaged(self, index: int) -> bytes:
        """Return a record, or the next one that is whole in its place."""
        for step in range(len(self)):
            here = int(self.rows[(index + step) % len(self)])
            shard = int(np.searchsorted(self._starts, here, side="right") - 1)
            number = here - int(self._starts[shard])
            try:
                (record,) = self._shards[shard].read([number])
                if len(record) != self._size:
                    raise RuntimeError(f"{len(record)} bytes in place of {self._size}")
                return record
            except (RuntimeError, OSError) as error:
                self._count_damaged(here, f"record {number} of {self._shards[shard].path}", error)
        raise UserError(f"{self.folder}: no record can be read: make the data set again")

    def _count_damaged(self, index: int, where: str, error: Exception) -> None:
        with self._lock:
            known = index in self.damaged
            self.damaged.setdefault(index, f"{where} ({str(error).partition(';')[0]})")
            # In every thread that meets one too many: the first may be at work for a later batch.
            if len(self.damaged) > self._limit:
                raise UserError(
                    f"{len(self.damaged)} of {len(self)} records of {self.folder} are damaged, and "
                    f"data.most_damaged lets {self._limit} pass: "
                    f"{'; '.join(self.damaged.values())}. Copy these files again, or make the "
                    f"data set again"
                )
        if not known:
            warnings.warn(f"skipping damaged {self.damaged[index]}", stacklevel=2)


class _Shard:
    """One file; opened when first read, once a thread."""

    def __init__(self, path: Path):
        self.path = path
        self._open = threading.local()

    def _reader(self) -> ArrayRecordReader:
        if not hasattr(self._open, "reader"):
            if not self.path.exists():
                raise UserError(
                    f"{self.path} is missing: copy it there, or make the data set again"
                )
            try:
                self._open.reader = ArrayRecordReader(str(self.path), READING)
                self._open.reader.num_records()
            except (RuntimeError, ValueError, OSError) as error:
                raise UserError(
                    f"{self.path} is no whole shard ({str(error).partition(';')[0]}): copy it "
                    f"again, or make the data set again"
                ) from error
        return self._open.reader

    def __len__(self) -> int:
        return self._reader().num_records()

    def may_be(self, one: Mapping[str, Any]) -> bool:
        """Say whether this is the shard of a description, damage in a few records aside."""
        if "sampled_crc32" not in one:  # described by an earlier release
            return True
        pairs = list(zip(self.sampled(), one["sampled_crc32"], strict=True))
        whole = [found == told for found, told in pairs if found is not None]
        return self.path.stat().st_size == one["bytes"] and 2 * sum(whole) >= len(whole)

    def sampled(self) -> list[int | None]:
        """Return checksums of a few records spread over the shard; None of a damaged one."""
        count = len(self)
        found = []
        for number in sorted({count * i // SAMPLED for i in range(SAMPLED)}):
            try:
                found.append(zlib.crc32(self.read([number])[0]))
            except (RuntimeError, OSError):
                found.append(None)
        return found

    def read(self, numbers: list[int]) -> list[bytes]:
        return self._reader().read(numbers)
