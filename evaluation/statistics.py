"""What is kept of a real set in a feature space, and what it is of."""

import dataclasses
import functools
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..core.errors import UserError
from ..core.files import (
    DIGEST,
    digest_of,
    home,
    read_json,
    require_pair,
    sidecar_path,
    write_pair,
)
from ..data.source import Source, content_digest
from . import published
from .extractors.extractor import Extractor, Together, require_images
from .metrics.appearance import contrast, white
from .metrics.frechet import Gaussian, Moments, moments
from .metrics.named import Measured
from .metrics.resampling import class_ranks
from .published import NOT_SAID

# Real images whose features are kept for precision and recall.
MANIFOLD_IMAGES = 2000
# Examples that are read at a time.
READ = 1000
# The key under which a description names the digest of what it is of.
OF = "made_of_sha256"
SUFFIX = ".safetensors"
REMEDY = "python main.py --mode=statistics writes statistics of the config's data set"


@dataclasses.dataclass(frozen=True)
class RealStatistics:
    """What is kept of a real set in a feature space.

    Attributes:
        moments: mean and covariance over the whole split.
        features: of the first ``MANIFOLD_IMAGES`` images of a shuffle, for precision and recall;
            None in statistics that others published.
        description: JSON data: name of the data set, split, number and shape of images, how they
            were prepared, their digest, the extractor and its digest, the classifier that sorted
            them, the digest of all that, and the appearance of the images whose features are kept.
        ranks: how many images a classifier sorts into each class first, second, ..., see
            `metrics.resampling.class_ranks`; None where there was none.
    """

    moments: Moments | Gaussian
    features: Float[np.ndarray, "n feature"] | None
    description: Mapping[str, Any]
    ranks: Int[np.ndarray, "rank class"] | None = None

    @property
    def width(self) -> int:
        """Numbers in one image's features."""
        return len(self.moments.mean)

    @classmethod
    def compute(cls, extractor: Extractor, source: Source, split: str = "") -> "RealStatistics":
        """Pass every image of a data set through an extractor, some at a time.

        Raises:
            UserError: a set of other examples than the extractor takes, before any is read.
        """
        what = f"data.name {source.name}"
        require_images(extractor, source.shape, what)
        if source.num_examples < 2:
            raise UserError(f"{what} has {source.num_examples} image: statistics need 2 or more")

        def read() -> Iterator[np.ndarray]:
            for start in range(0, source.num_examples, READ):
                yield source.read(np.arange(start, min(start + READ, source.num_examples)))[0]

        return cls.of_images(
            extractor,
            read(),
            source.num_examples,
            source.shape,
            what,
            {"data": source.name, "split": split, "prepared": dict(source.prepared)},
        )

    @classmethod
    def of_images(
        cls,
        extractor: Extractor,
        parts: Iterable[np.ndarray],
        count: int,
        shape: tuple[int, ...],
        what: str,
        about: Mapping[str, Any],
    ) -> "RealStatistics":
        """Pass images through an extractor, a part of them in memory at a time.

        Args:
            extractor: of their features.
            parts: the images, in their order.
            count: how many there are.
            shape: of one.
            what: they are, for messages.
            about: what is known of them: data, split and how they were prepared.

        Raises:
            UserError: images that are not uint8.
        """
        chosen = np.random.default_rng(0).permutation(count)[:MANIFOLD_IMAGES]
        place = {int(index): i for i, index in enumerate(chosen)}
        kept = np.empty((len(chosen), *shape), np.uint8)
        features, ranks, found, start = None, None, None, 0
        digest = hashlib.sha256()
        for images in parts:
            if images.dtype != np.uint8:
                raise UserError(f"{what}: its examples are {images.dtype}, and pictures are uint8")
            digest.update(np.ascontiguousarray(images))
            extracted = extractor(images)
            part = moments(extracted.features)
            found = part if found is None else found.merge(part)
            if extracted.probabilities is not None:
                counted = class_ranks(extracted.probabilities)
                ranks = counted if ranks is None else ranks + counted
            if features is None:
                features = np.empty((len(chosen), part.mean.size), np.float32)
            for i, index in enumerate(range(start, start + len(images))):
                if index in place:
                    kept[place[index]], features[place[index]] = images[i], extracted.features[i]
            start += len(images)
        if found is None or start != count:
            raise UserError(f"{what} gave {start} of {count} images: it is damaged, copy it again")
        description = {
            **about,
            "images": count,
            "shape": list(shape),
            "data_sha256": digest.hexdigest(),
            "classifier": str(extractor.identity.get("weights", extractor.identity["name"])),
            "extractor": without_place(extractor),
            "classes": without_place(sorting(extractor)) if ranks is not None else None,
            "contrast": contrast(kept),
            "white": white(kept),
        }
        made = cls(found, features, description, ranks)
        return dataclasses.replace(made, description=description | {OF: digest_of(made.made_of)})

    @property
    def measured(self) -> Measured:
        """What metrics may ask for of the real set."""
        return Measured(self.moments, self.features, self.ranks)

    @property
    def made_of(self) -> dict[str, Any]:
        """What two statistics share when they are of the same images in the same features.

        The data set by its contents, its split, resolution and preparation, the extractor with the
        digest of its weights. Where a data set lies and what it is called is no part of it.
        """
        names = ("images", "shape", "split", "prepared", "data_sha256", "extractor")
        return {name: self.description[name] for name in names if name in self.description}

    def same_as(self, other: "RealStatistics") -> bool:
        """Say whether both are of the same, as far as both say."""
        both = self.made_of.keys() & other.made_of.keys()
        return all(self.made_of[name] == other.made_of[name] for name in both)

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the numbers themselves, whatever is said of them."""
        return content_digest((tuple(self.moments), self.features))

    def save(self, path: Path) -> None:
        """Write a safetensors file with a JSON sidecar.

        Raises:
            UserError: the file cannot be written, or statistics of which no count is known.
        """
        if not isinstance(self.moments, Moments) or self.features is None:
            raise UserError(f"{path}: these statistics were published as they are; copy their file")
        arrays = {
            "count": np.array(self.moments.count, np.int64),
            "mean": np.asarray(self.moments.mean, np.float64),
            "scatter": np.asarray(self.moments.scatter, np.float64),
            "features": np.asarray(self.features, np.float16),
        }
        if self.ranks is not None:
            arrays["ranks"] = np.asarray(self.ranks, np.int64)
        write_pair(path, arrays, self.description)

    @classmethod
    def load(
        cls, path: Path, *, key: str = "", extractor: Extractor | None = None
    ) -> "RealStatistics":
        """Read what `save` wrote, or what others published.

        An ``.npz`` holds ``mu`` and ``sigma``, and under the key ``spatial`` ``mu_s`` and
        ``sigma_s``; ADM's evaluator batches hold images, too (``arr_0``), which are passed through
        the extractor. A ``.pkl`` of EDM2 holds ``mu`` and ``sigma`` of every key, such as ``fid``
        and ``fd_dinov2``; nothing in it is executed.

        Args:
            path: the file.
            key: which moments of several are meant.
            extractor: of the features of images, where the file has some.

        Raises:
            UserError: no such file, one that holds no statistics, or not those of the key; or one
                that was changed since it was written.
        """
        if not path.is_file():
            raise UserError(f"{path} does not exist: {REMEDY}")
        try:
            if path.suffix == SUFFIX:
                if key:
                    raise UserError(f"{path} holds one set of moments: leave out the key {key!r}")
                return cls._own(path)
            return published.read(cls, path, key, extractor)
        except (SafetensorError, KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} holds no statistics ({error}): {REMEDY}") from error

    @classmethod
    def _own(cls, path: Path) -> "RealStatistics":
        arrays = load_file(path)
        description = read_json(sidecar_path(path), f"copy both files together, or {REMEDY}")
        if not isinstance(description, dict):
            raise UserError(f"{sidecar_path(path)} describes no statistics: {REMEDY}")
        require_pair(path, description)
        kept = Moments(int(arrays["count"]), arrays["mean"], arrays["scatter"])
        if kept.scatter.shape != (len(kept.mean),) * 2:
            raise ValueError(f"mean {kept.mean.shape} and scatter {kept.scatter.shape}")
        description.pop(DIGEST, None)
        found = cls(kept, arrays["features"].astype(np.float32), description, arrays.get("ranks"))
        if description.get(OF, digest_of(found.made_of)) != digest_of(found.made_of):
            raise UserError(
                f"{sidecar_path(path)} was changed since it was written: it is of another data "
                f"set, split, preparation or extractor than it says. Restore it, or {REMEDY}"
            )
        return found

    def require_fit(
        self, extractor: Extractor, width: int, what: str, images: tuple[int, ...] | None = None
    ) -> None:
        """Refuse statistics in another feature space than an extractor's.

        Args:
            extractor: what images are to be measured with.
            width: numbers in one image's features.
            what: the statistics, for messages.
            images: their shape; None where it is not known.

        Raises:
            UserError: of another extractor by its digest, of images of another shape, or of
                another number of features.
        """
        name = extractor.identity.get("weights", extractor.identity["name"])
        known = self.description.get("extractor")
        given = without_place(extractor)
        if known not in (None, NOT_SAID, given):
            raise UserError(
                f"{what} are in the features of {self.description.get('classifier', known)} "
                f"({_short(known)}), and images would be measured in those of {name} "
                f"({_short(given)}): name that one, or statistics in its features. {REMEDY}"
            )
        shape = self.description.get("shape")
        if shape and images is not None and tuple(shape) != tuple(images):
            raise UserError(
                f"{what} are of images of shape {tuple(shape)}, and these are of {tuple(images)}: "
                f"name statistics of such images. {REMEDY}"
            )
        if shape and extractor.shape is not None and tuple(shape) != tuple(extractor.shape):
            raise UserError(
                f"{what} are of images of shape {tuple(shape)}, and {name} takes "
                f"{tuple(extractor.shape)}: name statistics of such images. {REMEDY}"
            )
        if width != self.width:
            raise UserError(
                f"{what} are of {self.width} features, and {name} gives {width}: name statistics "
                f"in its features. {REMEDY}"
            )


def _short(identity: Mapping[str, Any]) -> str:
    digest = identity.get("sha256")
    return f"sha256 {str(digest)[:12]}" if digest else json.dumps(dict(identity))


def sorting(extractor: Extractor) -> Extractor:
    """Return what gives an extractor's probabilities."""
    return extractor.classes if isinstance(extractor, Together) else extractor


def without_place(extractor: Extractor) -> dict[str, Any]:
    """Return what an extractor is, wherever its weights lie."""
    return {k: v for k, v in extractor.identity.items() if k != "weights"}


def find_statistics(source: str, folders: Sequence[Path]) -> Path:
    """Return the file that a name or a path of statistics stands for.

    Args:
        source: a path with or without its ending, or a name.
        folders: where names are looked for, in this order.

    Raises:
        UserError: there is none, with the places that were looked at.
    """
    if not source:
        raise UserError(f"evaluation.statistics is empty: give a name or a path. {REMEDY}")
    given = home(source)
    places = [given, *(folder / given for folder in folders if not given.is_absolute())]
    for place in places:
        for path in (place, place.with_name(place.name + SUFFIX)):
            if path.suffix in (SUFFIX, *published.SUFFIXES) and path.is_file():
                return path
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"evaluation.statistics {source!r}: no {SUFFIX}, .npz or .pkl file of that name at "
        f"{looked}. {REMEDY}"
    )
