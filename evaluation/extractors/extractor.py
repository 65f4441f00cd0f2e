"""What turns images into features: one protocol, and any function of a user's own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from ...core.errors import UserError


class Extracted(NamedTuple):
    """Features of images, and what a classifier says of them.

    Attributes:
        features: one row an image.
        probabilities: of each class; None where the extractor is no classifier.
    """

    features: Float[np.ndarray, "image feature"]
    probabilities: Float[np.ndarray, "image class"] | None = None


@runtime_checkable
class Extractor(Protocol):
    """Map uint8 images to features.

    Attributes:
        shape: of the images it takes; None where any do.
        num_classes: of its probabilities; 0 where it gives none.
        identity: JSON data that two extractors share when they give the same features: a name and
            the digests of weights.
    """

    @property
    def shape(self) -> tuple[int, ...] | None: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def __call__(self, images: UInt8[np.ndarray, "image h w c"]) -> Extracted: ...


@dataclasses.dataclass(frozen=True)
class FeatureFunction:
    """Make an extractor of a function of one's own.

    Attributes:
        function: of uint8 images, to one row of features an image.
        identity: JSON data that says which features these are; statistics of other ones are
            refused by it.
        shape: of the images it takes; None where any do.
    """

    function: Callable[[np.ndarray], np.ndarray]
    identity: Mapping[str, Any]
    shape: tuple[int, ...] | None = None
    num_classes: int = 0

    def __call__(self, images: UInt8[np.ndarray, "image h w c"]) -> Extracted:
        """Return the features.

        Raises:
            UserError: the function returns something else than a row an image.
        """
        features = np.asarray(self.function(images))
        if features.ndim != 2 or len(features) != len(images):
            raise UserError(
                f"extractor {self.identity}: {len(images)} images gave an array of shape "
                f"{features.shape}; one row of features an image is wanted"
            )
        return Extracted(features)


@dataclasses.dataclass(frozen=True)
class Together:
    """Take features from one extractor, and classes from another.

    Attributes:
        features, classes: the two.
    """

    features: Extractor
    classes: Extractor

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the images that both take."""
        return self.features.shape or self.classes.shape

    @property
    def num_classes(self) -> int:
        """Of the classifier."""
        return self.classes.num_classes

    @property
    def width(self) -> int | None:
        """Of the features, where that is known."""
        return getattr(self.features, "width", None)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Of the features."""
        return self.features.identity

    def __call__(self, images: UInt8[np.ndarray, "image h w c"]) -> Extracted:
        """Return the features of the one and the probabilities of the other."""
        return Extracted(self.features(images).features, self.classes(images).probabilities)


def in_batches(
    extractor: Extractor, images: UInt8[np.ndarray, "image h w c"], size: int = 1000
) -> Extracted:
    """Return what an extractor gives for images, some at a time."""
    parts = [extractor(images[i : i + size]) for i in range(0, len(images), size)]
    known = [part.probabilities for part in parts if part.probabilities is not None]
    return Extracted(
        np.concatenate([part.features for part in parts]), np.concatenate(known) if known else None
    )


def features_of(extractor: Extractor, shape: tuple[int, ...]) -> int:
    """Return how many numbers an extractor gives for one image of a shape."""
    if isinstance(known := getattr(extractor, "width", None), int):
        return known
    return extractor(np.zeros((1, *shape), np.uint8)).features.shape[-1]


def require_images(
    extractor: Extractor, shape: tuple[int, ...], what: str, unit: str = "images"
) -> None:
    """Refuse what an extractor does not take.

    Args:
        extractor: anything with a ``shape``.
        shape: of one example.
        what: whose examples they are, for the message.
        unit: what ``what`` makes or holds, for the message.

    Raises:
        UserError: with both shapes.
    """
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise UserError(
            f"{what}: {unit} of shape {tuple(shape)} are no pictures (height, width, 1 or 3 "
            f"channels), which features are of"
        )
    if extractor.shape is not None and tuple(shape) != tuple(extractor.shape):
        raise UserError(
            f"{what}: {unit} are {_size(shape)}, and {extractor.identity.get('name', 'extractor')} "
            f"takes {_size(extractor.shape)}: name a classifier of that size in "
            f"evaluation.classifier"
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
