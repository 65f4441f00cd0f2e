"""Reference statistics as others publish them: ``.npz`` of EDM and ADM, ``.pkl`` of EDM2.

Such files do not say whose features they are in, nor of which images; that is written down as it
is. Arrays are read and nothing else: of an archive by numpy without pickles, of a pickle by an
interpreter that knows inert names alone.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import UserError
from ..core.files import sha256
from ..models.checkpoints.readers import open_weights
from .extractors.extractor import Extractor, require_images
from .metrics.frechet import Gaussian

if TYPE_CHECKING:
    from .statistics import RealStatistics

SUFFIXES = (".npz", ".pkl")
NOT_SAID = "not said"
# What an archive's arrays are called: images, and moments by key.
IMAGES = "arr_0"
MOMENTS = {"": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
# Images that are read at a time.
READ = 500
# Of an array's header in an archive.
LONGEST_HEADER = 10_000


def read(
    kind: "type[RealStatistics]", path: Path, key: str, extractor: Extractor | None
) -> "RealStatistics":
    """Return the statistics in a file; see `RealStatistics.load`.

    Raises:
        UserError: not those of the key, or images without an extractor.
        ValueError: no statistics.
    """
    about = {
        "data": path.name,
        "split": NOT_SAID,
        "prepared": NOT_SAID,
        "extractor": NOT_SAID,
        "key": key,
        "file_sha256": sha256(path),
    }
    if path.suffix == ".pkl":
        found = open_weights(path, key or None)
        taken = found.description.entry or key
        arrays = {name: found.tensors[name].read() for name in MOMENTS[""]}
        return kind(_gaussian(arrays, ""), None, about | {"images": None, "key": taken})
    if key not in MOMENTS:
        raise UserError(
            f"{path} has no statistics {key!r}: give the key "
            f"{' or '.join(name for name in MOMENTS if name)}, or none"
        )
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    wanted = MOMENTS[key]
    gaussian = None
    if names >= set(wanted):
        with np.load(path, allow_pickle=False) as arrays:
            gaussian = _gaussian(arrays, key)
    if IMAGES not in names or key:
        if gaussian is None:
            raise ValueError(f"no arrays {' and '.join(wanted)}")
        return kind(gaussian, None, about | {"images": None})
    count, shape = _header(path)
    if extractor is None:
        if gaussian is None:
            raise UserError(f"{path} holds images, which an extractor makes statistics of")
        return kind(gaussian, None, about | {"images": count, "shape": list(shape)})
    require_images(extractor, shape, str(path))
    made = kind.of_images(extractor, _images(path, count, shape), count, shape, str(path), about)
    if gaussian is None:
        return made
    if len(gaussian.mean) != made.width:
        raise UserError(
            f"{path} has moments of {len(gaussian.mean)} features, and its images have "
            f"{made.width} by {extractor.identity['name']}: name the extractor that made them, for "
            f"ADM's files InceptionV3"
        )
    # Its moments may be of more images than it holds.
    said = {**made.description, "moments": NOT_SAID}
    return kind(gaussian, made.features, said, made.ranks)


def _gaussian(arrays: Mapping[str, Any], key: str) -> Gaussian:
    mean, covariance = (np.asarray(arrays[name], np.float64) for name in MOMENTS[key])
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise ValueError(f"mu has shape {mean.shape} and sigma {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("values that are not finite")
    return Gaussian(mean, covariance)


def _header(path: Path) -> tuple[int, tuple[int, ...]]:
    """Return how many images an archive has, and the shape of one."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{IMAGES}.npy") as member:
        shape, fortran, dtype = _described(member)
    if dtype != np.uint8 or len(shape) != 4 or fortran or shape[0] < 2:
        raise ValueError(f"{IMAGES} is {dtype} of shape {shape}, and images are uint8 [n, h, w, c]")
    return shape[0], shape[1:]


def _images(path: Path, count: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield an archive's images, some at a time: they may be more than memory holds."""
    size = math.prod(shape)
    with zipfile.ZipFile(path) as archive, archive.open(f"{IMAGES}.npy") as member:
        _described(member)
        for start in range(0, count, READ):
            number = min(READ, count - start)
            data = member.read(number * size)
            if len(data) != number * size:
                raise ValueError(f"{IMAGES} is cut short")
            yield np.frombuffer(data, np.uint8).reshape(number, *shape)


def _described(member) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    old = version == (1, 0)
    reader = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    return reader(member, max_header_size=LONGEST_HEADER)
