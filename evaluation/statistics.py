"""What is kept of a real set in a feature space, and what it is of."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..core.errors import UserError
from ..core.files import DIGEST, home, read_json, require_pair, sidecar_path, write_pair
from ..data.source import Source, content_digest
from .extractors.extractor import Extractor, require_images
from .metrics.appearance import contrast, white
from .metrics.frechet import Gaussian, Moments, moments_of_batches
from .metrics.named import Measured

# Real images whose features are kept for precision and recall.
MANIFOLD_IMAGES = 2000
# Examples that are read at a time, and features whose moments are taken at a time.
READ, BLOCK = 1000, 2**16
SUFFIX = ".safetensors"
REMEDY = "python main.py --mode=statistics writes statistics of the config's data set"


@dataclasses.dataclass(frozen=True)
class RealStatistics:
    """What is kept of a real set in a feature space.

    Attributes:
        moments: mean and covariance over the whole split.
        features: of the first ``MANIFOLD_IMAGES`` images of a shuffle, for precision and recall;
            None in statistics that others published.
        description: JSON data: name of the data set, split, number and shape of images, their
            digest, the extractor and its digest, and the appearance of the images whose features
            are kept.
    """

    moments: Moments | Gaussian
    features: Float[np.ndarray, "n feature"] | None
    description: Mapping[str, Any]

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
        chosen = np.random.default_rng(0).permutation(source.num_examples)[:MANIFOLD_IMAGES]
        place = {int(index): i for i, index in enumerate(chosen)}
        kept = np.empty((len(chosen), *source.shape), np.uint8)
        digest, parts = hashlib.sha256(), []
        for start in range(0, source.num_examples, READ):
            images, _ = source.read(np.arange(start, min(start + READ, source.num_examples)))
            if images.dtype != np.uint8:
                raise UserError(f"{what}: its examples are {images.dtype}, and pictures are uint8")
            digest.update(np.ascontiguousarray(images))
            parts.append(extractor(images).features)
            for i, image in enumerate(images, start):
                if i in place:
                    kept[place[i]] = image
        features = np.concatenate(parts)
        blocks = (features[i : i + BLOCK] for i in range(0, len(features), BLOCK))
        return cls(
            moments_of_batches(blocks),
            features[chosen],
            {
                "data": source.name,
                "split": split,
                "images": len(features),
                "shape": list(source.shape),
                "data_sha256": digest.hexdigest(),
                "classifier": str(extractor.identity.get("weights", extractor.identity["name"])),
                "extractor": {k: v for k, v in extractor.identity.items() if k != "weights"},
                "contrast": contrast(kept),
                "white": white(kept),
            },
        )

    @property
    def measured(self) -> Measured:
        """What metrics may ask for of the real set."""
        return Measured(real_moments=self.moments, real_features=self.features)

    @property
    def made_of(self) -> dict[str, Any]:
        """What two statistics share when they are of the same images in the same features."""
        names = ("images", "shape", "data_sha256", "extractor")
        return {name: self.description[name] for name in names if name in self.description}

    @property
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
        write_pair(path, arrays, self.description)

    @classmethod
    def load(cls, path: Path) -> "RealStatistics":
        """Read what `save` wrote, or an ``.npz`` with ``mu`` and ``sigma``, as ADM's are.

        Raises:
            UserError: no such file, or one that holds no statistics.
        """
        if not path.is_file():
            raise UserError(f"{path} does not exist: {REMEDY}")
        try:
            return _published(path) if path.suffix == ".npz" else cls._own(path)
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
        return cls(kept, arrays["features"].astype(np.float32), description)

    def require_fit(self, extractor: Extractor, width: int, what: str) -> None:
        """Refuse statistics in another feature space than an extractor's.

        Args:
            extractor: what images are to be measured with.
            width: numbers in one image's features.
            what: the statistics, for messages.

        Raises:
            UserError: of another extractor by its digest, of images of another shape, or of
                another number of features.
        """
        name = extractor.identity.get("weights", extractor.identity["name"])
        known = self.description.get("extractor")
        given = {k: v for k, v in extractor.identity.items() if k != "weights"}
        if known is not None and known != given:
            raise UserError(
                f"{what} are in the features of {self.description.get('classifier', known)} "
                f"({_short(known)}), and images would be measured in those of {name} "
                f"({_short(given)}): name that one, or statistics in its features. {REMEDY}"
            )
        shape = self.description.get("shape")
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


def _published(path: Path) -> RealStatistics:
    with np.load(path) as arrays:
        mean = np.asarray(arrays["mu"], np.float64)
        covariance = np.asarray(arrays["sigma"], np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise ValueError(f"mu has shape {mean.shape} and sigma {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("values that are not finite")
    return RealStatistics(
        Gaussian(mean, covariance), None, {"data": path.name, "split": "", "images": None}
    )


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
            if path.suffix in (SUFFIX, ".npz") and path.is_file():
                return path
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"evaluation.statistics {source!r}: no {SUFFIX} or .npz file of that name at {looked}. "
        f"{REMEDY}"
    )
