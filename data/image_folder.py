"""Picture files, their labels, and how one becomes a square of pixels."""

import csv
import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..core.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def labelled(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """Return the pictures below a folder, by path relative to it, with labels, and class names.

    Labels come from ``dataset.json`` (``{"labels": [["a/b.png", 3], ...]}``, as EDM writes it) or
    ``labels.csv`` (``file,label``: numbers, or names of classes) where there is one, else from the
    folder that a picture is in; pictures that lie in no folder are all of class 0.

    Raises:
        UserError: no such folder, no pictures in it, or labels that do not fit them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"config.prepare.source={folder} is no folder: name the one with pictures")
    files = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not files:
        raise UserError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    given = _given(folder)
    if given is None:
        groups = [str(Path(file).parent.as_posix()).partition("/")[0] for file in files]
        names = sorted(set(groups))
        numbers = {name: number for number, name in enumerate(names)}
        return [(file, numbers[group]) for file, group in zip(files, groups, strict=True)], names
    missing = [file for file in files if file not in given]
    if missing:
        raise UserError(
            f"{len(missing)} pictures of {folder} have no label, {missing[0]} among them: add them "
            f"to the list of labels, or move them away"
        )
    gone = sorted(given.keys() - set(files))
    if gone:
        raise UserError(
            f"{folder} has labels of {len(gone)} pictures that are not in it, {gone[0]} among them"
        )
    labels = [given[file] for file in files]
    if all(isinstance(label, int) or label.isdigit() for label in labels):
        numbers = [int(label) for label in labels]
        return list(zip(files, numbers, strict=True)), [str(n) for n in range(max(numbers) + 1)]
    names = sorted(set(map(str, labels)))
    place = {name: number for number, name in enumerate(names)}
    return [(f, place[str(label)]) for f, label in zip(files, labels, strict=True)], names


def _given(folder: Path) -> dict[str, int | str] | None:
    listed, table = folder / "dataset.json", folder / "labels.csv"
    try:
        if listed.exists():
            labels = json.loads(listed.read_text())["labels"]
            return {str(file): label for file, label in labels} if labels else None
        if table.exists():
            rows = list(csv.reader(table.read_text().splitlines()))
            return {file: label for file, label in rows if (file, label) != ("file", "label")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the labels of {folder} cannot be read ({error}): dataset.json holds "
            f'{{"labels": [["a.png", 0], ...]}}, labels.csv a file and a label in each line'
        ) from error
    return None


def square(path: Path, size: int, channels: int) -> UInt8[np.ndarray, "size size channels"]:
    """Return a picture's centre as ``size`` x ``size`` pixels, as ADM cuts ImageNet.

    It is halved by averaging while its shorter side is at least twice the size, then scaled by
    bicubic interpolation until that side is the size, then cut in the middle (arXiv 2105.05233,
    the official code).

    Args:
        path: the file.
        size: side of the result.
        channels: 1 or 3.

    Raises:
        OSError, ValueError, SyntaxError: the file is damaged or no picture (as Pillow finds it).
    """
    with Image.open(path) as opened:
        picture = opened.convert("L" if channels == 1 else "RGB")
    while min(picture.size) >= 2 * size:
        halves = tuple(side // 2 for side in picture.size)
        picture = picture.resize(halves, resample=Image.Resampling.BOX)
    scale = size / min(picture.size)
    scaled = tuple(max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize(scaled, resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    top, left = ((side - size) // 2 for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size].reshape(size, size, channels)
