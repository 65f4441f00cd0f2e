"""Picture files below a folder, their labels, and how one becomes a square of pixels."""

import codecs
import csv
import io
import json
import math
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from ..core.errors import UserError

# Files of these endings are pictures; whether one can be read is seen when it is cut.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
# The kinds that are read, whatever a file is called. Pillow knows others, which run a program of
# the system (PostScript) or are no pictures (PDF, HDF5).
KINDS = (
    *("PNG", "JPEG", "MPO", "WEBP", "BMP", "PPM", "TIFF", "GIF", "AVIF", "JPEG2000", "QOI"),
    *("HEIF", "JXL"),  # where a plugin of Pillow is installed
)
# What file managers, archives and editors leave beside pictures, in lower case.
NO_CLASSES = {
    *("__macosx", "@eadir", "thumbs", "thumbs.db", "desktop.ini", "$recycle.bin", "#recycle"),
    *("lost+found", "system volume information", "__pycache__"),
}
LISTED, TABLED = "dataset.json", "labels.csv"
SEPARATORS = (",", ";", "\t")
# The class of pictures that have no labels.
UNLABELLED = "all"
# A number above is a date or an identifier rather than a class.
LARGEST_LABEL = 10**6
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|nan", re.ASCII | re.IGNORECASE)
# EXIF's orientation: what is to be done to the stored pixels.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112
# Of a picture that is longer, only the middle is scaled: what is cut away is never made.
LONGEST = 8

Say = Callable[[str], Any]


def ignore(message: str) -> None:
    """Say nothing."""


def printable(name: str | os.PathLike, most: int = 120) -> str:
    """Return a file's name as it can be printed and written down: one line, of bounded length.

    Bytes that are no UTF-8 and control characters are escaped; of a long name the end stays.
    """
    text = os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return text if len(text) <= most else f"...{text[3 - most :]}"


def labelled(folder: Path, say: Say = ignore) -> tuple[list[tuple[str, int]], list[str]]:
    """Return the pictures below a folder, by path relative to it, with labels, and class names.

    Labels come from ``dataset.json`` (``{"labels": [["a/b.png", 3], ...]}``, as EDM writes it) or
    ``labels.csv`` (``file,label``: numbers, or names of classes) where there is one, else from the
    folder that a picture is in: folders that are all numbers keep them, others are numbered in
    alphabetical order. Pictures that lie in no folder, or of which ``dataset.json`` says that they
    have no labels (``{"labels": null}``), are all of one class.

    Hidden files and folders are passed over, links are followed, and a folder that is reached
    twice is taken once.

    Args:
        folder: where they are.
        say: is told of files that are left out, and of classes without pictures.

    Raises:
        UserError: no such folder, no pictures in it, or labels that do not fit them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "no folder" if folder.exists() else "not there (any more)"
        raise UserError(f"prepare.source={printable(folder)} is {what}: name a folder of pictures")
    found = _files(folder, say)
    files, others = _pictures(folder, found)
    if others:
        listed = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        say(f"{sum(others.values())} other files are left out: {listed}")
    if not files:
        raise UserError(
            f"{printable(folder)} holds no pictures ({', '.join(SUFFIXES)}, or another kind that "
            f"Pillow reads)"
        )
    given = _given(folder, set(found), say)
    if given is None:
        names, labels = _by_folder(folder, files, found, say)
    elif not given:
        say(f"{LISTED} says that there are no labels: all pictures are of one class")
        names, labels = [UNLABELLED], [0] * len(files)
    else:
        names, labels = _by_list(folder, files, given, say)
    return list(zip(files, labels, strict=True)), names


def _files(folder: Path, say: Say) -> list[str]:
    """Return the files below a folder, relative to it and sorted, but for hidden ones."""
    found, skipped, seen = [], Counter(), set()

    def hidden(name: str) -> bool:
        return name.startswith(".") or name.casefold() in NO_CLASSES

    def failed(error: OSError) -> None:
        raise UserError(
            f"{printable(error.filename)} cannot be listed ({error.strerror}): mend that and run "
            f"the same command again"
        )

    def walk(top: str) -> list[str]:
        """Take a folder and those in it; return the links to folders that were met."""
        links = []
        for here, folders, names in os.walk(top, onerror=failed):
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                skipped["folders that are reached twice"] += 1
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            named = [name for name in (*folders, *names) if hidden(name)]
            for name in named:
                what = name if not name.startswith(".") else "names that begin with a dot"
                skipped[printable(what, 40)] += 1
            folders[:] = sorted(name for name in folders if not hidden(name))
            linked = [name for name in folders if os.path.islink(os.path.join(here, name))]
            links += [os.path.join(here, name) for name in linked]
            folders[:] = [name for name in folders if name not in linked]
            inside = os.path.relpath(here, folder)
            for name in names:
                if hidden(name):
                    continue
                if os.path.isfile(os.path.join(here, name)):
                    found.append(name if inside == os.curdir else os.path.join(inside, name))
                else:
                    skipped["broken links or no files"] += 1
        return links

    # What really lies here goes before what is linked to: it is taken under its own name.
    todo = walk(str(folder))
    while todo:
        todo = [one for link in todo for one in walk(link)]
    if skipped:
        listed = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
        say(f"passed over: {listed}")
    return sorted(found)


def _pictures(folder: Path, found: Iterable[str]) -> tuple[list[str], Counter]:
    """Return the files that are pictures, and how many others there are of each ending."""
    files, others = [], Counter()
    for file in found:
        ending = os.path.splitext(file)[1].lower()
        if ending in SUFFIXES or _is_picture(folder / file):
            files.append(file)
        elif file not in (LISTED, TABLED):
            others[printable(ending, 20) or "without an ending"] += 1
    return files, others


def _is_picture(path: Path) -> bool:
    """Say of a file of an unusual ending whether it begins as a kind that is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=_kinds()):
                return True
        except UnidentifiedImageError:
            return False
        except Exception:  # of a known kind and damaged, or too large: named when it is cut
            return path.suffix.lower() in Image.registered_extensions()


def _kinds() -> list[str]:
    """Return those of `KINDS` that this Pillow reads."""
    Image.init()
    return [kind for kind in KINDS if kind in Image.OPEN]


def kinds_of(files: Iterable[str]) -> str:
    """Return how many files there are of each ending, in words."""
    count = Counter(os.path.splitext(file)[1].lower() or "without an ending" for file in files)
    return ", ".join(f"{number} {ending}" for ending, number in count.most_common())


def _by_folder(
    folder: Path, files: list[str], found: list[str], say: Say
) -> tuple[list[str], list[int]]:
    groups = [PurePosixPath(Path(file).as_posix()).parts for file in files]
    tops = [parts[0] if len(parts) > 1 else "" for parts in groups]
    loose = [file for file, top in zip(files, tops, strict=True) if not top]
    if len(loose) == len(files):
        return [UNLABELLED], [0] * len(files)
    if loose:
        raise UserError(
            f"{len(loose)} pictures of {printable(folder)} lie beside the folders of classes, "
            f"{printable(loose[0])} among them: move them into one, or away"
        )
    names = sorted(set(tops))
    with os.scandir(folder) as entries:
        folders = {e.name for e in entries if e.is_dir() and not e.name.startswith(".")}
    emptied = sorted(n for n in folders - set(names) if n.casefold() not in NO_CLASSES)
    if emptied:
        shown = ", ".join(printable(name, 40) for name in emptied[:10])
        say(f"{len(emptied)} folders hold no pictures and are no classes: {shown}")
    if not all(re.fullmatch(r"[0-9]+", name) for name in names):
        place = {name: number for number, name in enumerate(names)}
        return [printable(name) for name in names], [place[top] for top in tops]
    numbers = {name: int(name) for name in names}
    if len(set(numbers.values())) < len(names):
        twice = next(number for number, count in Counter(numbers.values()).items() if count > 1)
        same = [name for name in names if numbers[name] == twice]
        raise UserError(
            f"the folders {' and '.join(same)} of {printable(folder)} are both of class {twice}: "
            f"rename one"
        )
    if max(numbers.values()) > LARGEST_LABEL:
        raise UserError(
            f"the folders of {printable(folder)} are numbers, which are taken for classes, and "
            f"{max(names, key=int)} is above {LARGEST_LABEL}: rename them"
        )
    return _numbered([numbers[top] for top in tops], say)


def _numbered(labels: list[int], say: Say) -> tuple[list[str], list[int]]:
    """Return as many names as the largest of the labels asks for, and the labels."""
    count = max(labels) + 1
    if empty := sorted(set(range(count)) - set(labels)):
        shown = ", ".join(map(str, empty[:10])) + ", ..." * (len(empty) > 10)
        say(f"{len(empty)} of the classes 0 to {count - 1} have no pictures: {shown}")
    return [str(number) for number in range(count)], labels


def _by_list(
    folder: Path, files: list[str], given: Mapping[str, "_Label"], say: Say
) -> tuple[list[str], list[int]]:
    missing = [file for file in files if file not in given]
    if missing:
        raise UserError(
            f"{len(missing)} pictures of {printable(folder)} have no label, "
            f"{printable(missing[0])} among them: add them to the list of labels, or move them "
            f"away"
        )
    labels = [given[file] for file in files]
    kinds = {type(label.value) for label in labels}
    if len(kinds) > 1:
        odd = next(label for label in labels if isinstance(label.value, str))
        raise UserError(
            f"{odd.place}: {odd.value!r} is a name and other labels are numbers: give all of one "
            f"kind"
        )
    if kinds == {int}:
        return _numbered([label.value for label in labels], say)
    names = sorted({label.value for label in labels})
    place = {name: number for number, name in enumerate(names)}
    return [printable(name) for name in names], [place[label.value] for label in labels]


class _Label:
    """A label as it is given: a whole number from 0, or a name.

    Args:
        value: what the list says.
        place: where it says so, for messages.

    Raises:
        UserError: it is neither.
    """

    def __init__(self, value: Any, place: str):
        self.place = place
        if isinstance(value, str):
            value = value.strip()
            number = float(value.replace(",", ".")) if NUMBER.fullmatch(value) else None
        else:
            plain = isinstance(value, (int, float)) and not isinstance(value, bool)
            number, value = (value if plain else None), None if plain else value
        if number is not None:
            if not (math.isfinite(number) and number >= 0 and number == int(number)):
                raise UserError(
                    f"{place}: the label is {number:g}, and labels are whole numbers from 0, or "
                    f"names"
                )
            if number > LARGEST_LABEL:
                raise UserError(f"{place}: the label {number:.0f} is above {LARGEST_LABEL}")
            self.value: int | str = int(number)
        elif isinstance(value, str) and value:
            self.value = value
        else:
            said = "null" if value is None else "empty" if value == "" else json.dumps(value)
            raise UserError(
                f"{place}: the label is {said[:40]}, and labels are whole numbers from 0, or names"
            )


def _given(folder: Path, files: set[str], say: Say) -> dict[str, _Label] | None:
    """Return the labels that a list gives; none of them where it says so, None without a list."""
    found = _Finder(folder, files)
    if (folder / LISTED).is_file():
        if (folder / TABLED).is_file():
            say(f"labels are those of {LISTED}: {TABLED} is not read")
        rows = _listed(folder)
    elif (folder / TABLED).is_file():
        rows = _tabled(folder, found)
    else:
        return None
    labels: dict[str, _Label] = {}
    gone = []
    for place, name, value in rows:
        label = _Label(value, place)
        file = found(name)
        if file is None:
            gone.append((place, name))
        elif file in labels and labels[file].value != label.value:
            raise UserError(
                f"{place}: {printable(name)} is {label.value} here and {labels[file].value} in "
                f"{labels[file].place}: leave one of them"
            )
        else:
            labels.setdefault(file, label)
    if gone:
        place, name = gone[0]
        raise UserError(
            f"{printable(folder)} has labels of {len(gone)} pictures that are not in it, "
            f"{printable(name)} ({place}) among them: take these labels out of the list, or bring "
            f"the pictures back"
        )
    return labels


def _text(path: Path) -> str:
    """Return what a file says, in UTF-8 or as a byte order mark tells; other bytes stay."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _listed(folder: Path) -> list[tuple[str, str, Any]]:
    """Return (place, file, label) of every entry of ``dataset.json``; none for ``null``."""
    path = folder / LISTED
    try:
        labels = json.loads(_text(path))["labels"]
        if labels is None:
            return []
        pairs = list(labels.items()) if isinstance(labels, dict) else labels
        if not pairs:
            raise ValueError("it lists no labels; say null where there are none")
        rows = []
        for number, pair in enumerate(pairs):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ValueError(f"entry {number} is {json.dumps(pair)[:60]}")
            if not isinstance(pair[0], str):
                raise ValueError(f"entry {number} is of {json.dumps(pair[0])[:60]}")
            rows.append((f"{LISTED}, entry {number}", *pair))
        return rows
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = "no entry named labels" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"the labels of {printable(folder)} cannot be read ({printable(said)}): {LISTED} holds "
            f'{{"labels": [["a.png", 0], ...]}}, or {{"labels": null}} where there are none'
        ) from error


def _tabled(folder: Path, found: "_Finder") -> list[tuple[str, str, Any]]:
    """Return (place, file, label) of every line of ``labels.csv`` but its header."""
    text = _text(folder / TABLED)
    first = "\n".join(text.splitlines()[:20])

    def fit(separator: str) -> tuple[int, int]:
        cells = [row for _, row in _rows(first, separator)]
        return sum(found(row[0]) is not None for row in cells), sum(len(row) == 2 for row in cells)

    try:
        separator = max(SEPARATORS, key=fit)
        rows = _rows(text, separator)
    except csv.Error as error:
        raise UserError(
            f"{printable(folder / TABLED)} is no table of files and labels ({error})"
        ) from error
    if not rows:
        raise UserError(
            f"{printable(folder / TABLED)} is empty: write a file and a label in each line, or "
            f"remove it"
        )
    result = []
    for place, (number, cells) in enumerate(rows):
        known = found(cells[0]) is not None
        if place == 0 and not known and not cells[0].lower().endswith(SUFFIXES):
            continue  # a header, whatever its words
        if len(cells) != 2 or not cells[0]:
            raise UserError(
                f"{TABLED}, line {number}: {printable(separator.join(cells), 60)!r} is no file and "
                f"label: give two cells"
            )
        result.append((f"{TABLED}, line {number}", cells[0], cells[1]))
    if not result:
        raise UserError(
            f"{printable(folder / TABLED)} has a header alone: write a file and a label in each "
            f"line, or remove it"
        )
    return result


def _rows(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the rows of a table that are not empty, each with its line's number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    found = []
    for row in reader:
        cells = [cell.strip() for cell in row]
        while len(cells) > 2 and not cells[-1]:  # spreadsheets fill all rows up to the longest
            cells.pop()
        if any(cells):
            found.append((reader.line_num, cells))
    return found


class _Finder:
    """Find a file by what a list calls it: an absolute path, one with backslashes, ``./a.png``."""

    def __init__(self, folder: Path, files: set[str]):
        self._tops = (str(folder.absolute()), str(folder.resolve()))
        self._files = files
        # Systems differ in how they write accents in names.
        self._composed = {unicodedata.normalize("NFC", file): file for file in files}

    def __call__(self, name: str) -> str | None:
        """Return the file, relative to the folder; None where there is none."""
        for spelled in (name, name.replace("\\", "/")):
            for top in ("", *self._tops):
                inside = spelled.removeprefix(top + os.sep) if top else spelled
                path = unicodedata.normalize("NFC", os.path.normpath(inside))
                if inside in self._files:
                    return inside
                if path in self._composed:
                    return self._composed[path]
        return None


def square(
    path: Path, size: int, channels: int, say: Say = ignore
) -> UInt8[np.ndarray, "size size channels"]:
    """Return a picture's centre as ``size`` x ``size`` pixels, as ADM cuts ImageNet.

    The picture is what a viewer shows: turned as its EXIF data says, transparent parts on white,
    its first frame where there are several. It is halved by averaging while its shorter side is at
    least twice the size, then scaled by bicubic interpolation until that side is the size, then cut
    in the middle (arXiv 2105.05233, the official code).

    Args:
        path: the file.
        size: side of the result.
        channels: 1 or 3.
        say: is told what was done to it that not every picture needs, in a few words.

    Raises:
        ValueError: it is damaged, no picture, too large, or of numbers without a known range.
    """
    picture = _opened(path, "L" if channels == 1 else "RGB", say)
    short, long = sorted(picture.size)
    if short < size:
        say("smaller than asked for, enlarged")
    if long > LONGEST * short:
        middle = [(side - min(side, LONGEST * short)) // 2 for side in picture.size]
        width, height = (min(side, LONGEST * short) for side in picture.size)
        picture = picture.crop((*middle, middle[0] + width, middle[1] + height))
    while min(picture.size) >= 2 * size:
        halves = tuple(side // 2 for side in picture.size)
        picture = picture.resize(halves, resample=Image.Resampling.BOX)
    scale = size / min(picture.size)
    scaled = tuple(max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize(scaled, resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    top, left = ((side - size) // 2 for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size].reshape(size, size, channels)


def _opened(path: Path, mode: str, say: Say) -> Image.Image:
    """Return a picture as a viewer shows it, in mode L or RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes and tags that do no harm
        try:
            with Image.open(path, formats=_kinds()) as opened:
                if getattr(opened, "is_animated", False) and opened.format != "MPO":
                    say("several frames, the first one taken")
                    opened.seek(0)
                opened.load()
                picture = _turned(opened, say)
                return _in_mode(_in_bytes(picture, opened.format), mode, say)
        except UnidentifiedImageError:
            raise ValueError("no picture of a kind that is read") from None
        except Image.DecompressionBombError:
            raise ValueError(
                f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, too large to be read"
            ) from None
        except Exception as error:  # Pillow's readers raise many types for files that are damaged
            said = str(error).replace(str(path), "it")
            raise ValueError(printable(said) or type(error).__name__) from error


def _turned(opened: Image.Image, say: Say) -> Image.Image:
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION))
    except Exception:  # what says how to turn it is damaged, and the picture is not
        turn = None
    if turn is None:
        return opened
    say("turned as EXIF says")
    return opened.transpose(turn)


def _in_bytes(picture: Image.Image, kind: str | None) -> Image.Image:
    """Return a picture of 8 bits a channel; one of 16 is divided by 257.

    Raises:
        ValueError: numbers of another range than 16 bits, or than 0 to 1 for floating point.
    """
    wide = picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM"))
    if wide:
        values = np.asarray(picture).astype(np.float64) / 257
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            values[values == clear / 257] = 255
    elif picture.mode == "I":
        raise ValueError("whole numbers of 32 bits, of no known range: save it with 8 or 16 bits")
    elif picture.mode == "F":
        values = np.asarray(picture).astype(np.float64) * 255
        if not (values.min() >= 0 and values.max() <= 255):
            raise ValueError("floating point numbers beyond 0 to 1: save it with 8 or 16 bits")
    else:
        return picture
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _in_mode(picture: Image.Image, mode: str, say: Say) -> Image.Image:
    if not picture.has_transparency_data:
        plain = picture if picture.mode in ("1", "L", "RGB") else picture.convert("RGB")
        return plain.convert(mode)
    above = picture.convert("RGBA")
    if above.getchannel("A").getextrema()[0] < 255:
        say("transparent, laid on white")
        above = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return above.convert("RGB").convert(mode)
