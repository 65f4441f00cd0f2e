"""Image-classification sets prepared by TensorFlow Datasets, read without TensorFlow.

Only what ``tfds build`` left on disk as array_record files is read: nothing here reaches for the
network, and a set that is missing is an error with the command that prepares it.
"""

import difflib
import functools
import json
import os
import re
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...core.errors import UserError
from ...core.files import cache_folder, digest_of_parts, home, sha256, sketch
from ...core.registry import register, registry
from .. import array_cache
from ..source import Source

# Reading records in groups is ten times faster than one by one.
GROUP = 256
VERSION = r"\d+\.\d+\.\d+"
STORED = ("images", "labels", "num_classes")
# Bytes of a set that is known by digests of its whole files; a larger one by parts of them.
READ_WHOLE = 2**30
# Sources that read sets of many names.
GENERAL = ("tfds", "folder")


def default_data_dir() -> Path:
    """Return where TFDS itself keeps data: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return home(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


@register("source", name="tfds")
def load(
    set: str,
    split: str = "train",
    dir: str | os.PathLike | None = None,
    *,
    memory_limit: int = 2**30,
    cache_dir: str | os.PathLike | None = None,
) -> Source:
    """Return a prepared set: decoded once and kept if small, read as needed if large.

    Args:
        set: "set", "set/config" or "set:version"; the newest version unless one is named.
        split: as TFDS writes it: "train", "test", "train[:90%]", "train+test".
        dir: the folder that holds the sets; `default_data_dir` if None.
        memory_limit: bytes of pixels; a larger set is read from disk as training goes.
        cache_dir: where decoded arrays are kept; see `core.files.cache_folder`.

    Raises:
        UserError: not prepared, unknown, damaged, not images of one size with a class label,
            prepared in another file format, or no such split.
    """
    name, data_dir = set, home(dir) if dir else default_data_dir()
    directory = find(name, data_dir)
    path = cache_folder(cache_dir) / _cache_name(name, split, directory)
    facts = functools.partial(_facts, split, directory)
    arrays = array_cache.read(path, STORED)
    if arrays is None or arrays["images"].nbytes > memory_limit:
        records, shape, num_classes = _open(name, split, directory, data_dir)
        if len(records) * int(np.prod(shape)) > memory_limit:
            return Source(name, shape, num_classes, records=records, facts=facts)
        images, labels = _decode(f"{name} {split}", records, shape)
        arrays = dict(zip(STORED, (images, labels, np.int64(num_classes)), strict=True))
        array_cache.write(path, arrays)
    return Source(
        name,
        arrays["images"].shape[1:],
        int(arrays["num_classes"]),
        x=arrays["images"],
        condition=arrays["labels"],
        facts=facts,
    )


def _facts(split: str, directory: Path) -> dict[str, Any]:
    """Return what tells a set from another one of the same name: its files' sizes and contents."""
    files = sorted(file for file in directory.iterdir() if ".array_record" in file.name)
    sizes = [file.stat().st_size for file in files]
    digest = sha256 if sum(sizes) <= READ_WHOLE else sketch
    names = [file.name for file in files]
    return {"split": split, "files": list(zip(names, sizes, map(digest, files), strict=True))}


def find(name: str, data_dir: Path) -> Path:
    """Return the folder that holds the newest (or the named) version of a set.

    Raises:
        UserError: no such set there, or several configs of it and none named.
    """
    base, _, version = name.partition(":")
    parts = base.split("/")
    if not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts) or (
        version and not re.fullmatch(VERSION, version)
    ):
        raise UserError(
            f"data set name {name!r} is no folder that --mode=prepare or --mode=encode made, nor a "
            f"name: write set, set/config or set:1.2.3"
        )
    root = data_dir.joinpath(*parts)
    found = [
        file.parent
        for pattern in ("*/dataset_info.json", "*/*/dataset_info.json")
        for file in root.glob(pattern)
        # Other names are left behind by a preparation that was interrupted.
        if re.fullmatch(re.escape(version) or VERSION, file.parent.name)
    ]
    configs = sorted({folder.parent for folder in found})
    if not found:
        raise UserError(_missing(name, parts[0], data_dir))
    if len(configs) > 1:
        names = ", ".join(str(config.relative_to(data_dir)) for config in configs)
        raise UserError(f"{name} has several configs in {data_dir}: name one of {names}")
    return max(found, key=lambda folder: [int(number) for number in folder.name.split(".")])


def build_command(name: str, data_dir: Path) -> str:
    """Return the command that prepares a set where it will be looked for."""
    return (
        f'pip install -e ".[prepare]" && tfds build {name} --file_format=array_record '
        f"--data_dir={shlex.quote(str(data_dir))}"
    )


def _missing(name: str, base: str, data_dir: Path) -> str:
    import tensorflow_datasets as tfds

    # Community sets are listed from a server: leave them out.
    others = [other for other in registry("source") if other not in GENERAL]
    known = {*others, *tfds.list_builders(with_community_datasets=False)}
    if base in known:
        gone = "" if data_dir.is_dir() else ", a folder that is not there (any more)"
        command = build_command(name, data_dir)
        return f"{name} is not in {data_dir}{gone}: set data.dir, or prepare it with {command}"
    there = {file.parents[1].name for file in data_dir.glob("*/*/dataset_info.json")}
    if close := difflib.get_close_matches(base, known | there, n=3):
        return f"unknown data set {name!r}: did you mean {' or '.join(close)}?"
    return (
        f"unknown data set {name!r}, and no folder of that name: choose one of "
        f"{', '.join(sorted({*others, *there}))}, or any image-classification set of TensorFlow "
        f"Datasets"
    )


def _cache_name(name: str, split: str, directory: Path) -> str:
    """Name the arrays after the set and a digest that changes with its files."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    facts = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    identity = json.dumps([name, directory.name, split, facts])
    digest = digest_of_parts([identity])[:16]
    return re.sub(r"[^\w.]+", "-", f"{name}-{directory.name}-{split}-{digest}.npz")


@dataclass(frozen=True)
class _Readable:
    """TFDS's random access, with damage on disk reported as something to be repaired."""

    examples: Any
    remedy: str

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            examples = self.examples.__getitems__([int(index) for index in indices])
        except (RuntimeError, OSError) as error:  # array_record's, then the image decoder's
            reason = str(error).partition(";")[0]
            raise UserError(f"{reason}: {self.remedy}") from error
        images = np.stack([example["image"] for example in examples])
        return images, np.array([example["label"] for example in examples], np.int32)


def _open(
    name: str, split: str, directory: Path, data_dir: Path
) -> tuple[_Readable, tuple[int, int, int], int]:
    """Return random access to a split, the shape of its images and the number of classes."""
    import tensorflow_datasets as tfds

    remedy = f"move {directory} away, then run {build_command(name, data_dir)}"
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # json's, protobuf's or TFDS's own, by what is wrong in the files
        raise UserError(f"{directory} does not describe a TFDS set: {remedy}") from error
    info = builder.info
    if info.file_format.value != "array_record":
        raise UserError(
            f"{directory} is prepared as {info.file_format.value}, not array_record: {remedy}"
        )
    features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(f"{name} has no 'image' with a class 'label': choose a labelled image set")
    if None in image.shape or image.np_dtype != np.uint8:
        raise UserError(
            f"images of {name} are {np.dtype(image.np_dtype)} of shape {image.shape}: choose a set "
            f"of uint8 images of one size"
        )
    try:
        examples = builder.as_data_source(split=split)
    except ValueError as error:
        raise UserError(
            f"{name} has no split {split!r}: choose one of {', '.join(info.splits)}, or a part "
            f"such as {next(iter(info.splits))}[:90%]"
        ) from error
    records = _Readable(examples, remedy)
    if len(records):
        records.read([0])  # a missing file is found now, not in the middle of a run
    return records, image.shape, label.num_classes


def _decode(what: str, records: _Readable, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((len(records), *shape), np.uint8)
    labels = np.empty(len(records), np.int32)

    def decode(start: int) -> int:
        part = slice(start, min(start + GROUP, len(records)))
        images[part], labels[part] = records.read(range(part.start, part.stop))
        return part.stop - part.start

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(records), desc=f"decoding {what}, once", mininterval=2) as bar,
    ):
        for count in pool.map(decode, range(0, len(records), GROUP)):
            bar.update(count)
    return images, labels
