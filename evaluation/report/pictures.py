"""The same seeds of every row as sprites: many small pictures in one, within a number of bytes."""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

# A sprite is a square of so many pictures a side.
SIDE = 4
TILES = SIDE * SIDE
# As many pictures of a row as are of use to look at, and how large they need to be.
MOST, EDGE, LEAST_EDGE = 64, 192, 32
# Bytes that a page writes beside each sprite.
BESIDE = 64
# Up to this size every pixel is seen and kept as it is.
EXACT, QUALITY = 64, 88
# Returns images of a row by its name and their indices.
Read = Callable[[str, Int[np.ndarray, " image"]], UInt8[np.ndarray, "image h w c"]]


@dataclasses.dataclass(frozen=True)
class Sprites:
    """Pictures of rows.

    Attributes:
        files: WebP files of `TILES` pictures each, by row; a row's are of consecutive seeds from 0.
        counts: pictures of each row.
        held: images that there are of each row.
        edge: the longer side of a picture in pixels.
        original: the longer side of an image.
        absent: why a row has no pictures, by row.
    """

    files: Mapping[str, Sequence[bytes]]
    counts: Mapping[str, int]
    held: Mapping[str, int]
    edge: int
    original: int
    absent: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of all files, and of what is written beside them."""
        return sum(len(one) + BESIDE for files in self.files.values() for one in files)

    def told(self, rows: int) -> list[str]:
        """Return what a page is to say of what it leaves out, a sentence each.

        Args:
            rows: how many the page has.
        """
        said = []
        shown, there = sum(self.counts.values()), sum(self.held.values())
        if shown < there:
            said.append(
                f"{shown:,} of {there:,} images are shown, the first of each row; "
                f"{there - shown:,} are left out to keep this file small."
            )
        if self.edge < self.original:
            said.append(f"They are shrunk from {self.original} to {self.edge} pixels.")
        if rows > len(self.counts):
            reasons = sorted({*self.absent.values()})
            said.append(
                f"{rows - len(self.counts)} of {rows} rows have no pictures here: "
                f"{'; '.join(reasons)}."
            )
        return said


def make_sprites(
    rows: Mapping[str, int], read: Read, budget: int, absent: Mapping[str, str]
) -> Sprites:
    """Return sprites of as many seeds of every row as fit, and smaller ones before none.

    Args:
        rows: how many images each has, by name; those that matter most first.
        read: reads them.
        budget: bytes of all files, and of what is written beside them.
        absent: why others have none.
    """
    if not rows:
        return Sprites({}, {}, {}, 0, 0, dict(absent))
    original = max(max(read(name, np.arange(1)).shape[1:3]) for name in list(rows)[:1])
    edge = min(EDGE, original)
    level = _level(rows, read, 0, edge, budget)
    while level is None and edge > LEAST_EDGE:
        edge = max(LEAST_EDGE, edge // 2)
        level = _level(rows, read, 0, edge, budget)
    gone = dict(absent)
    while level is None:
        kept = list(rows)[: len(rows) // 2]
        gone |= dict.fromkeys([name for name in rows if name not in kept], "no room for them")
        rows = {name: rows[name] for name in kept}
        level = _level(rows, read, 0, edge, budget)
    files = {name: [file] for name, file in level.items()}
    for number in range(1, math.ceil(MOST / TILES)):
        spent = sum(len(one) + BESIDE for parts in files.values() for one in parts)
        level = _level(rows, read, number, edge, budget - spent)
        if not level:
            break
        for name, file in level.items():
            files[name].append(file)
    counts = {name: min(rows[name], TILES * len(parts)) for name, parts in files.items()}
    return Sprites(files, counts, dict(rows), edge, original, gone)


def _level(
    rows: Mapping[str, int], read: Read, number: int, edge: int, budget: int
) -> dict[str, bytes] | None:
    """Return a sprite of each row that has images of this level; None where they do not fit."""
    made, spent, begin = {}, 0, number * TILES
    for name, count in rows.items():
        if count <= begin:
            continue
        made[name] = sprite(read(name, np.arange(begin, min(count, begin + TILES))), edge)
        spent += len(made[name]) + BESIDE
        if spent > budget:
            return None
    return made


def sprite(images: UInt8[np.ndarray, "image h w c"], edge: int) -> bytes:
    """Return at most `TILES` images as one WebP file, row by row, none wider than ``edge``."""
    height, width, channels = images.shape[1:]
    shrink = min(1.0, edge / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    sheet = Image.new(mode, (SIDE * size[0], SIDE * size[1]))
    for place, image in enumerate(images[:TILES]):
        one = Image.fromarray(image[..., 0] if channels == 1 else image)
        if shrink < 1:
            one = one.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(one, (place % SIDE * size[0], place // SIDE * size[1]))
    file = io.BytesIO()
    exact = max(height, width) <= EXACT
    sheet.save(file, "webp", lossless=exact, quality=100 if exact else QUALITY, method=4)
    return file.getvalue()
