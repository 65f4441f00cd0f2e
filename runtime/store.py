"""Numbered images or latents below a folder: each written whole or not at all, none of them twice.

A run that was killed goes on with what is missing; several processes share that by one list. What
is there is known by its contents: a file that was cut short counts as missing, one of another name
than results have is passed over.
"""

import io
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from ..core.errors import UserError
from ..core.files import read_json, write_bytes
from . import distributed
from .identity import ELSEWHERE, MADE_OF, plain, require_same, write_record

FORMATS = ("png", "npz")
RECORD = "sampling.json"
# A result's arrays in a shard; beside them are their indices, and labels where there are any.
IMAGES, LATENTS = "images", "latents"
# Names of results. Whatever else lies among them is not ours.
PICTURE, SHARD = re.compile(r"(\d{8,})\.png"), re.compile(r"\d{8,}-\d+\.npz")
PARTIAL = re.compile(r"\d{8,}(-\d+)?\.(png|npz)\..*partial")
# What comes first and last in a PNG; PIL's channels by its type of colour.
SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
COLOURS = {0: 1, 2: 3, 6: 4}
DAMAGED = "damaged-"
# As many names as a message shows.
NAMED = 3
# How far, on average, two makings of one result may be apart: in levels of an image, and as a share
# of a latent's numbers. Another device rounds otherwise; other weights make something else.
LEVELS, SHARE = 2.0, 0.02
# From indices to their results and labels.
Make = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


class _Found(NamedTuple):
    """A look at a folder: the file of each index, results that are damaged, and strangers."""

    places: dict[int, Path]
    damaged: list[Path]
    strange: list[Path]


class Store:
    """Numbered results below a folder, to read from; `Store.claimed` to write to.

    ``png`` keeps one file an image, ``images/00000123.png``; ``npz`` one file a batch with arrays
    ``images`` (or ``latents``, float32), ``indices`` and ``labels``.

    Args:
        folder: where they are kept.
        format: ``png`` or ``npz``.
        count: how many are wanted, numbered from 0; those beyond are left alone.
        shape: of one of them; whatever has another one is made again. None where it isn't known.
        elsewhere: how to begin anew, for messages.

    Raises:
        UserError: an unknown format.
    """

    def __init__(
        self,
        folder: Path,
        format: str,
        count: int,
        *,
        shape: tuple[int, ...] | None = None,
        elsewhere: str = ELSEWHERE,
    ):
        if format not in FORMATS:
            raise UserError(f"sampling.format {format!r} is not one of {', '.join(FORMATS)}")
        self.root, self.folder = Path(folder), Path(folder) / "images"
        self.format, self.count, self.shape = format, count, shape
        self._elsewhere = elsewhere
        # Whether everything that results are made of was compared with what is there.
        self.compared = True
        # Indices by name of the files that were seen to be whole; they are not read again.
        self._whole: dict[str, list[int]] = {}

    @classmethod
    def open(cls, folder: Path, count: int) -> "Store":
        """Return the store that an earlier run left in ``folder``, to read from.

        Raises:
            UserError: there is none.
        """
        record = Path(folder) / RECORD
        if not record.is_file():
            raise UserError(f"{folder} holds no samples: --mode=sample makes some there")
        stored = read_json(record, "restore it from a copy, or sample again elsewhere")
        try:
            format = (stored if MADE_OF in stored else stored["sampling"])["format"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{record} does not say how the samples beside it are kept") from error
        return cls(folder, format, count)

    @classmethod
    def claimed(
        cls,
        folder: Path,
        format: str,
        count: int,
        *,
        made_of: Mapping[str, Any],
        said: Mapping[str, str],
        shape: tuple[int, ...] | None = None,
        older: Callable[[dict], dict] | None = None,
        elsewhere: str = ELSEWHERE,
        say: Callable[[str], Any] = distributed.say,
    ) -> "Store":
        """Return the store of results made of ``made_of``, new or to be gone on with.

        Call it in all processes. Files that cannot be read are put aside, files of other names
        are left where they are; both are told.

        Args:
            folder, format, count, shape: as in `Store`.
            made_of: JSON data of contents; must agree between runs that share the folder.
            said: where those things lie, by their dotted names in ``made_of``.
            older, elsewhere: see `identity.require_same`.
            say: is told.

        Raises:
            UserError: in every process, a folder of other results or of another format, or two
                files that hold the same result.
        """
        store = cls(folder, format, count, shape=shape, elsewhere=elsewhere)
        distributed.require_equal(plain(made_of), "what the results are made of")
        refused: Exception | None = None
        try:
            if distributed.is_primary():
                store._claim(made_of, said, older, say)
        except Exception as error:  # told to the others, who would wait for ever
            refused = error
        distributed.agree(refused, f"could not go on in {folder}")
        store.compared = bool(distributed.from_primary(int(store.compared)))
        return store

    def _claim(self, made_of, said, older, say) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.root / RECORD
        if any(PICTURE.fullmatch(one.name) or SHARD.fullmatch(one.name) for one in self._files()):
            if not record.is_file():
                raise UserError(
                    f"{self.folder} holds images, and {record} is gone, which said what they are "
                    f"made of: {self._elsewhere}, or restore that file from a copy"
                )
            self.compared = require_same(
                record, made_of, said, what="images", older=older, elsewhere=self._elsewhere
            )
            if (kept := Store.open(self.root, 0).format) != self.format:
                raise UserError(
                    f"{self.root} holds images kept as {kept}: set sampling.format={kept}, or "
                    f"{self._elsewhere}"
                )
        for path in self._files():
            if PARTIAL.fullmatch(path.name):
                path.unlink()
        found = self._look()
        for path in found.damaged:
            say(f"{path} is damaged: what it held is made again")
            if self.format == "npz":
                # A shard that takes its images' place may have another name.
                path.rename(path.with_name(f"{DAMAGED}{path.name}"))
        if found.strange:
            names = ", ".join(path.name for path in found.strange[:NAMED])
            more = f" and {len(found.strange) - NAMED} more" * (len(found.strange) > NAMED)
            say(f"passed over in {self.folder}, as results have other names: {names}{more}")
        if self.compared:
            write_record(record, made_of, said, format=self.format)

    def adopt(self, make: Make, made_of: Mapping[str, Any], said: Mapping[str, str]) -> None:
        """Say of an earlier release's folder what its results are made of, once that is certain.

        Its record does not tell all of that; one of the results, made again, does.

        Args:
            make: as in `fill`.
            made_of, said: as in `claimed`.

        Raises:
            UserError: in every process, what is made now is not what is there.
        """
        failed: Exception | None = None
        try:
            if distributed.is_primary():
                for index in self.indices()[:1].tolist():
                    self._require_same(index, make(np.array([index]))[0])
                write_record(self.root / RECORD, made_of, said, format=self.format)
        except Exception as error:  # as above
            failed = error
        distributed.agree(failed, f"could not go on in {self.root}")
        self.compared = True

    def _require_same(self, index: int, made: np.ndarray) -> None:
        there = self.read(np.array([index]))
        within = LEVELS if made.dtype == np.uint8 else SHARE * float(np.abs(there).mean())
        away = (
            float(np.abs(there.astype(np.float64) - made).mean())
            if (there.shape == made.shape)
            else np.inf
        )
        if not away <= within:
            raise UserError(
                f"{self.root} holds images that an earlier release made, and image {index} comes "
                f"out otherwise now: weights or data were replaced since; {self._elsewhere}"
            )

    def indices(self) -> Int[np.ndarray, " n"]:
        """Return the indices of all whole results, in order, those beyond ``count`` too."""
        return np.array(sorted(self._look().places), np.int64)

    def missing(self) -> Int[np.ndarray, " n"]:
        """Return the indices that are not on disk, or not whole, in order."""
        wanted = np.ones(self.count, bool)
        found = self.indices()
        wanted[found[found < self.count]] = False
        return np.flatnonzero(wanted)

    def share(self) -> Int[np.ndarray, " n"]:
        """Return what this process is to make: its part of one list, which the primary finds.

        Call it in all processes at once: whoever looks later, when others have begun, would find
        less missing.
        """
        missing = np.zeros(self.count, np.uint8)
        if distributed.is_primary():
            missing[self.missing()] = 1
        missing = distributed.array_from_primary(missing)
        return np.flatnonzero(missing)[jax.process_index() :: jax.process_count()]

    def fill(
        self,
        share: Int[np.ndarray, " n"],
        make: Make,
        batch_size: int,
        advance: Callable[[int], Any],
    ) -> bool:
        """Make what is missing, and return when all processes have; say whether all is there.

        Args:
            share: of this process.
            make: from at most ``batch_size`` indices to their results and labels.
            batch_size: results that are made and written at a time.
            advance: is told how many are done.

        Raises:
            UserError: in every process, what ``make`` or writing raises in one.
        """
        failed: Exception | None = None
        try:
            for begin in range(0, len(share), batch_size):
                indices = share[begin : begin + batch_size]
                self.write(indices, *make(indices))
                advance(len(indices))
        except Exception as error:  # as above
            failed = error
        distributed.agree(failed, "could not make its part")
        complete = distributed.is_primary() and not self.missing().size
        return bool(distributed.from_primary(int(complete)))

    def write(
        self,
        indices: Int[np.ndarray, " batch"],
        results: UInt8[np.ndarray, "batch h w c"] | Float[np.ndarray, "batch h w c"],
        labels: Int[np.ndarray, " batch"] | None,
    ) -> None:
        """Store a batch of images, or in ``npz`` of latents, which are float32.

        Raises:
            UserError: the disk refuses; what was written before stays valid.
        """
        if self.format == "png":
            for index, image in zip(indices, results, strict=True):
                buffer = io.BytesIO()
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
                    buffer, "png"
                )
                self._write(f"{index:08d}.png", buffer, [int(index)])
            return
        buffer = io.BytesIO()
        arrays = {IMAGES if results.dtype == np.uint8 else LATENTS: results, "indices": indices}
        np.savez_compressed(buffer, **arrays, **({} if labels is None else {"labels": labels}))
        self._write(f"{indices[0]:08d}-{len(indices)}.npz", buffer, indices.tolist())

    def _write(self, name: str, buffer: io.BytesIO, indices: list[int]) -> None:
        # What the disk loses with the power is found damaged, and made again.
        write_bytes(self.folder / name, buffer.getvalue(), durable=False)
        self._whole[name] = indices

    def read(self, indices: Int[np.ndarray, " n"]) -> np.ndarray:
        """Return stored images, uint8, or latents, float32, by index.

        Raises:
            UserError: one is missing or cannot be read.
        """
        return np.stack([one for one, _ in self._read(indices)])

    def labels(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"] | None:
        """Return the labels in ``npz`` by index; None where there are none.

        Raises:
            UserError: one is missing or cannot be read.
        """
        labels = [label for _, label in self._read(indices)]
        return None if None in labels else np.array(labels, np.int32)

    def holds_latents(self) -> bool:
        """Say whether what is there is latents; False where nothing is."""
        for path in set(self._look().places.values()):
            return path.suffix == ".npz" and LATENTS in _members(path)
        return False

    def _read(self, indices: Int[np.ndarray, " n"]) -> list[tuple[np.ndarray, Any]]:
        places, wanted = self._look().places, [int(index) for index in indices]
        asked = set(wanted)
        if gone := [index for index in wanted if index not in places]:
            raise UserError(
                f"image {gone[0]} of {self.folder} is missing or damaged: run the command that "
                f"made it again, it makes what is missing"
            )
        found: dict[int, tuple[np.ndarray, Any]] = {}
        for path in {places[index] for index in wanted}:
            try:
                found |= {i: one for i, one in _contents(path).items() if i in asked}
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, SyntaxError) as error:
                raise UserError(
                    f"{path} cannot be read ({error}): remove it and run the command that made it "
                    f"again, it makes what is missing"
                ) from error
        return [found[index] for index in wanted]

    def _files(self) -> Iterator[Path]:
        return iter(sorted(self.folder.iterdir())) if self.folder.is_dir() else iter(())

    def _look(self) -> _Found:
        found = _Found({}, [], [])
        for path in self._files():
            if not self._is_ours(path.name):
                if not path.name.startswith(DAMAGED):
                    found.strange.append(path)
                continue
            if path.name not in self._whole and (held := self._held(path)):
                self._whole[path.name] = held
            indices = self._whole.get(path.name)
            if indices is None:
                found.damaged.append(path)
                continue
            if twice := found.places.keys() & set(indices):
                index = min(twice)
                raise UserError(
                    f"{found.places[index]} and {path.name} both hold image {index}: move one of "
                    f"them away and run the same command again, it makes what is then missing"
                )
            found.places.update(dict.fromkeys(indices, path))
        return found

    def _is_ours(self, name: str) -> bool:
        if self.format == "npz":
            return bool(SHARD.fullmatch(name))
        picture = PICTURE.fullmatch(name)
        return picture is not None and name == f"{int(picture[1]):08d}.png"

    def _held(self, path: Path) -> list[int] | None:
        if self.format == "npz":
            return _numbers(path, self.shape)
        return [int(path.stem)] if _is_whole_picture(path, self.shape) else None


def _is_whole_picture(path: Path, shape: tuple[int, ...] | None) -> bool:
    """Say whether a PNG has a beginning, with the shape that is wanted, and an end."""
    try:
        with open(path, "rb") as file:
            head = file.read(33)
            file.seek(-len(END), io.SEEK_END)
            if len(head) < 33 or not head.startswith(SIGNATURE) or file.read() != END:
                return False
    except OSError:
        return False
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    found = (height, width, COLOURS.get(colour))
    return head[12:16] == b"IHDR" and depth == 8 and (shape is None or found == tuple(shape))


def _numbers(path: Path, shape: tuple[int, ...] | None) -> list[int] | None:
    """Return the indices in a shard; None for one that is cut short, or not as one is written."""
    try:
        with np.load(path) as shard:
            kinds = {IMAGES, LATENTS} & set(shard.files)
            numbers = shard["indices"]
        if len(kinds) != 1 or numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            return None
        (kind,) = kinds
        with zipfile.ZipFile(path) as shard, shard.open(f"{kind}.npy") as array:
            version = np.lib.format.read_magic(array)
            read = np.lib.format.read_array_header_1_0
            found, _, _ = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
                array
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if found[:1] != numbers.shape or (shape is not None and found[1:] != tuple(shape)):
        return None
    indices = numbers.tolist()
    valid = len(indices) > 0 and min(indices) >= 0 and len(set(indices)) == len(indices)
    return indices if valid else None


def _members(path: Path) -> list[str]:
    with np.load(path) as shard:
        return shard.files


def _contents(path: Path) -> dict[int, tuple[np.ndarray, Any]]:
    """Return results and labels of a file by index; pictures have no label."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            image = np.asarray(picture)
        return {int(path.stem): (image if image.ndim == 3 else image[..., None], None)}
    with np.load(path) as shard:
        kind = LATENTS if LATENTS in shard else IMAGES
        numbers, results = shard["indices"].tolist(), shard[kind]
        labels = shard["labels"].tolist() if "labels" in shard else [None] * len(numbers)
    return dict(zip(numbers, zip(results, labels, strict=True), strict=True))
