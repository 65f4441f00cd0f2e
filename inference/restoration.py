"""Restoring measured images: measurements by index, and a job whose rule knows them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from .. import guidance, samplers
from ..core.errors import UserError
from ..core.files import digest_of, sha256
from ..core.random import MEASUREMENTS, root_key
from ..data.images import from_uint8
from ..data.source import Source
from ..guidance.operators import Operator
from .job import Job

ARRAY, PICTURE = ".npy", ".png"


class Measurements(Protocol):
    """Measurements by index, with what tells them from others."""

    def __len__(self) -> int: ...

    def read(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n *observed"]:
        """Return measurements, in the data's units."""

    def truth(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n *shape"] | None:
        """Return what was measured, where that is known."""

    def identity(self) -> dict[str, Any]:
        """Return as JSON data what the measurements are."""


class Files:
    """Measured images from files: a folder of them by name, or one array of all.

    PNGs are read to [-1, 1], arrays (.npy) as they are.

    Args:
        place: a folder of .png and .npy files, one a measurement, or one .npy ``[count, ...]``.
        observed: the shape of one.

    Raises:
        UserError: nothing there, or another shape, by the name of the file.
    """

    def __init__(self, place: Path, observed: tuple[int, ...]):
        self._observed, self._array = observed, None
        if place.suffix == ARRAY and place.is_file():
            self._array = np.load(place, allow_pickle=False)
            self._files = [place]
            self._require(place, self._array.shape[1:])
        elif place.is_dir():
            kinds = (ARRAY, PICTURE)
            self._files = sorted(one for one in place.iterdir() if one.suffix in kinds)
        else:
            raise UserError(
                f"restore.measurements {place} is no folder of .png or .npy files, and no .npy file"
            )
        if not self._files:
            raise UserError(f"restore.measurements {place} holds no .png or .npy file")

    def __len__(self) -> int:
        return len(self._files) if self._array is None else len(self._array)

    def read(self, indices):
        if self._array is not None:
            return self._array[np.asarray(indices)].astype(np.float32)
        return np.stack([self._one(self._files[index]) for index in indices])

    def truth(self, indices):
        return None

    def identity(self):
        return {"files": digest_of([sha256(one) for one in self._files])}

    def _one(self, path: Path) -> np.ndarray:
        if path.suffix == ARRAY:
            value = np.load(path, allow_pickle=False).astype(np.float32)
        else:
            with Image.open(path) as image:
                value = from_uint8(np.asarray(image))
            value = value[..., None] if value.ndim == 2 else value
        self._require(path, value.shape)
        return value

    def _require(self, path: Path, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self._observed:
            raise UserError(
                f"restore.measurements: {path} holds a measurement of shape {tuple(shape)}, and "
                f"restore.operator measures {self._observed} of the network's samples"
            )


class Simulated:
    """Images of a data set, measured here: what restoration is tried out on.

    Args:
        source: of images, uint8.
        operator: measures them.
        noise: standard deviation of what is added, image i from its own stream.
        seed: of the noise.
    """

    def __init__(self, source: Source, operator: Operator, noise: float, seed: int):
        self._source, self._operator, self._noise = source, operator, noise
        self._seed = seed

    def __len__(self) -> int:
        return self._source.num_examples

    def read(self, indices):
        clean = np.asarray(self._operator.forward(jax.numpy.asarray(self.truth(indices))))
        keys = samplers.sample_keys(root_key(self._seed), MEASUREMENTS, np.asarray(indices))
        return clean + self._noise * np.asarray(samplers.unit_noise(keys, clean.shape[1:]))

    def truth(self, indices):
        return from_uint8(self._source.read(np.asarray(indices))[0])

    def identity(self):
        return {"data": self._source.identity(), "noise": self._noise, "seed": self._seed}


class Method(NamedTuple):
    """How images are restored: what `samplers.sample` takes, for their measurements."""

    rule: guidance.Rule
    sampler: samplers.Sampler


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A job that restores images by index.

    Attributes:
        job: for any measurements; what is checked and counted.
        method: from measurements ``[batch, ...]`` to how their images are restored.
        operator: that measured them.
        measurements: by index.
    """

    job: Job
    method: Callable[[np.ndarray], Method]
    operator: Operator
    measurements: Measurements

    def finite_images(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n *shape"]:
        """Restore the images with these indices, as `Job.finite_images` samples them.

        Raises:
            UserError: what `samplers.sample` refuses, and images that are not finite.
        """
        # Devices take equal shares, and each image goes with its own measurement.
        whole = np.append(
            indices, np.repeat(indices[-1:], -len(indices) % jax.local_device_count())
        )
        rule, sampler = self.method(self.possible(whole))
        job = dataclasses.replace(self.job, rule=rule, sampler=sampler)
        return job.finite_images(whole)[: len(indices)]

    def possible(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n *observed"]:
        """Return measurements without what no image could have been measured as, ``A A^+ y``."""
        return np.asarray(self.operator.forward(self.operator.pinv(self._read(indices))))

    def inverse(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n *shape"]:
        """Return ``A^+ y``: the least that was measured so."""
        return np.asarray(self.operator.pinv(self._read(indices)))

    def _read(self, indices):
        return jax.numpy.asarray(self.measurements.read(indices), jax.numpy.float32)


def psnr(images: Float[np.ndarray, " n *shape"], truth: Float[np.ndarray, " n *shape"]):
    """Return each image's peak signal-to-noise ratio in decibels, of values in [-1, 1].

    Values outside count as the ends of the range.
    """
    error = np.square(np.clip(images, -1, 1) - truth).reshape(len(truth), -1).mean(axis=1)
    return 10 * np.log10(4 / np.maximum(error, 1e-12))
