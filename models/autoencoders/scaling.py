"""Between an autoencoder's latents and what a diffusion network is given: range, shift, scale."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Array, Float

# What functions are given is what they answer with.
Latents = TypeVar("Latents", Float[Array, "*batch c"], Float[np.ndarray, "*batch c"])
SYMMETRIC, UNIT = "symmetric", "unit"
# Middle and half the width of the range of an autoencoder's images.
IMAGE_RANGES = {SYMMETRIC: (0.0, 1.0), UNIT: (0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class LatentScaling:
    """How images become the latents of a network, kept with its weights.

    ``z -> (z - shift) * scale``, channel by channel; images outside the autoencoder are in
    [-1, 1] as everywhere.

    Attributes:
        image_range: "symmetric" where the autoencoder works on images in [-1, 1], "unit" where in
            [0, 1].
        shift, scale: one number a channel.
        autoencoder: SHA-256 of the autoencoder's weight file; empty where it is not known.
        file: name of that file, for messages.

    Raises:
        ValueError: an unknown range, a scale that is not positive, channels that do not agree.
    """

    image_range: str
    shift: Sequence[float]
    scale: Sequence[float]
    autoencoder: str = ""
    file: str = ""

    def __post_init__(self):
        for name in ("shift", "scale"):
            object.__setattr__(self, name, tuple(float(n) for n in getattr(self, name)))
        if self.image_range not in IMAGE_RANGES:
            raise ValueError(
                f"image range {self.image_range!r} is not one of {', '.join(IMAGE_RANGES)}"
            )
        if not self.scale or len(self.shift) != len(self.scale):
            raise ValueError(f"{len(self.shift)} shifts and {len(self.scale)} scales: give as many")
        if not (np.isfinite(self.shift).all() and np.isfinite(self.scale).all()):
            raise ValueError(f"shift {self.shift} and scale {self.scale} must be finite")
        if min(self.scale) <= 0:
            raise ValueError(f"scale {self.scale} must be positive")

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return len(self.scale)

    def to_network(self, z: Latents) -> Latents:
        """Return an autoencoder's latents as a network is given them."""
        return (z - _row(self.shift)) * _row(self.scale)

    def to_autoencoder(self, z: Latents) -> Latents:
        """Return a network's latents as the decoder is given them; undoes `to_network`."""
        return z / _row(self.scale) + _row(self.shift)

    def to_encoder(self, images: Latents) -> Latents:
        """Return images in [-1, 1] in the range that the encoder is given."""
        middle, half = IMAGE_RANGES[self.image_range]
        return images * half + middle

    def from_decoder(self, images: Latents) -> Latents:
        """Return what a decoder made in [-1, 1]; undoes `to_encoder`."""
        middle, half = IMAGE_RANGES[self.image_range]
        return (images - middle) / half

    def to_json(self) -> dict[str, Any]:
        """Return JSON data, for `from_json`."""
        return dataclasses.asdict(self) | {"shift": list(self.shift), "scale": list(self.scale)}


def from_json(data: Mapping[str, Any]) -> LatentScaling:
    """Return the record that `LatentScaling.to_json` wrote.

    Raises:
        ValueError: fields that are missing, unknown or of no use.
    """
    try:
        return LatentScaling(**data)
    except TypeError as error:
        raise ValueError(f"{data!r} is no scaling of latents ({error})") from error


# Both on the autoencoder of Stable Diffusion: "dit" is its own scaling factor, which DiT and all
# that follow it use (arXiv 2112.10752; the standard deviation of its latents is 1 / 0.18215);
# "edm2" gives each channel mean 0 and standard deviation 0.5 (arXiv 2312.02696, official code).
PUBLISHED = {
    "dit": LatentScaling(SYMMETRIC, (0.0,) * 4, (0.18215,) * 4),
    "edm2": LatentScaling(
        UNIT, (5.81, 3.25, 0.12, -2.15), tuple(0.5 / std for std in (4.17, 4.62, 3.71, 3.28))
    ),
}


def fitted(
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    *,
    to_std: float = 0.5,
    **fields,
) -> LatentScaling:
    """Return the scaling that gives each channel mean 0 and standard deviation ``to_std``.

    Args:
        mean, std: of each channel of a data set's latents.
        to_std: the network's sigma_data; EDM's is 0.5.
        fields: the others of `LatentScaling`.

    Raises:
        ValueError: a standard deviation that is 0, or not finite.
    """
    spread = np.asarray(std, float)
    if not (np.isfinite(spread).all() and (spread > 0).all()):
        raise ValueError(f"latents whose channels spread by {spread} cannot be scaled")
    return LatentScaling(shift=tuple(mean), scale=tuple(to_std / spread), **fields)


def _row(numbers: Sequence[float]) -> np.ndarray:
    # numpy's, so that what reads data stays off the accelerator.
    return np.asarray(numbers, np.float32)
