"""The Gaussian with the data's mean and covariance: its denoiser and its flow in closed form.

Wang and Vastola, arXiv 2412.09726: at high noise levels they are close to those of the data.
"""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..core.files import home, replacing
from ..core.pytrees import pytree, static
from ..core.random import fold_each, keys_per_sample, normal_like
from .checks import Keys, positive, whole

ARRAYS = ("mean", "eigenvalues", "eigenvectors", "shape")


@pytree
class GaussianFit:
    """``N(mean, U diag(eigenvalues) U^T)``, or one for each class; directions left out have none.

    Itself a denoiser, ``fit(x, sigma, condition)``.

    Attributes:
        mean: [dim] of the flattened samples; by class [classes + 1, dim], all data's last.
        eigenvalues: variances c^2 along the directions, [rank] or [classes + 1, rank].
        eigenvectors: orthonormal columns U, [dim, rank] or [classes + 1, dim, rank].
        shape: one sample's.
    """

    mean: Float[Array | np.ndarray, " *classes dim"]
    eigenvalues: Float[Array | np.ndarray, " *classes rank"]
    eigenvectors: Float[Array | np.ndarray, " *classes dim rank"]
    shape: tuple[int, ...] = static()

    @property
    def num_classes(self) -> int:
        """How many classes have fits of their own; 0 for one fit of all data."""
        return self.mean.shape[0] - 1 if self.mean.ndim == 2 else 0

    @property
    def null_condition(self) -> int | None:
        """The label of all data's fit; None where there are no classes."""
        return self.num_classes or None

    def denoise(
        self,
        x: Float[Array | np.ndarray, " batch *shape"],
        sigma: Float[Array, ""] | float,
        condition=None,
    ) -> Float[Array, " batch *shape"]:
        """Return ``E[x0 | x] = mu + U diag(c^2/(c^2 + sigma^2)) U^T (x - mu)``.

        Args:
            x: noisy samples, ``x0 + sigma * noise``.
            sigma: their noise level.
            condition: labels ``[batch]`` of a fit by class; None, or the number of classes, takes
                all data's. Others ignore it.

        Raises:
            ValueError: a fit by class and a condition that is no labels.
        """
        return self._moved(x, condition, lambda c2: c2 / (c2 + sigma**2), 0.0)

    __call__ = denoise

    def jump(
        self,
        x: Float[Array | np.ndarray, " batch *shape"],
        sigma: Float[Array, ""] | float,
        to: Float[Array, ""] | float,
        condition=None,
    ) -> Float[Array, " batch *shape"]:
        """Follow ``dx/dsigma = (x - D)/sigma`` from ``sigma`` to ``to``, exactly.

        ``mu + U diag(sqrt((c^2 + to^2)/(c^2 + sigma^2))) U^T (x - mu)``; what lies outside the
        directions shrinks by ``to/sigma``.

        Args:
            x, sigma, condition: as in `denoise`; sigma above 0.
            to: noise level to arrive at, lower or higher.
        """

        def gain(c2):
            return jnp.sqrt((c2 + to**2) / (c2 + sigma**2))

        return self._moved(x, condition, gain, to / sigma)

    def draw(
        self,
        noise: Float[Array | np.ndarray, " batch *shape"],
        sigma: Float[Array, ""] | float,
        condition=None,
    ) -> Float[Array, " batch *shape"]:
        """Return draws from ``N(mu, Sigma + sigma^2)``, made of unit noise."""
        mean, values, vectors = self._of(condition, noise)
        offset = noise.reshape(len(noise), -1)
        offset = _stretched(offset, vectors, jnp.sqrt(values + sigma**2), sigma)
        return (mean + offset).reshape(noise.shape)

    def error(
        self,
        denoise: Callable,
        data: Float[Array | np.ndarray, " batch *shape"],
        sigmas: Sequence[float],
        key: Keys,
        condition: Any = None,
    ) -> Float[np.ndarray, " sigmas"]:
        """Return how far the Gaussian's denoiser is from another, by noise level.

        The root mean square difference on noised data, in the data's units. Jump no lower than
        where it begins to matter.

        Args:
            denoise: ``(x, sigma, condition) -> x0 estimate``, as `samplers.sample` takes it.
            data: clean samples.
            sigmas: noise levels.
            key: one key, or one a sample.
            condition: of the samples; None for none.
        """
        data = jnp.asarray(data, float)
        keys = keys_per_sample("samplers.GaussianFit.error", key, data.shape[0])
        errors = []
        for number, level in enumerate(sigmas):
            sigma = jnp.asarray(level, data.dtype)
            noise = normal_like(fold_each(keys, number), data)
            x = data + sigma * noise
            difference = self.denoise(x, sigma, condition) - denoise(x, sigma, condition)
            errors.append(float(jnp.sqrt(jnp.mean(difference**2))))
        return np.array(errors)

    def save(self, path: str | Path) -> None:
        """Write the fit as an .npz file of plain arrays; replaced as a whole or not at all."""
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in ARRAYS}
        with replacing(home(path)) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "GaussianFit":
        """Read what `save` wrote; nothing in the file is executed.

        Raises:
            ValueError: no such file, or one that holds no fit.
        """
        remedy = "make it with samplers.fit_gaussian(data).save(path)"
        try:
            with np.load(home(path), allow_pickle=False) as file:
                arrays = [file[name] for name in ARRAYS]
        except FileNotFoundError as error:
            raise ValueError(f"there is no Gaussian fit at {str(path)!r}: {remedy}") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{str(path)!r} holds no Gaussian fit ({error}): {remedy}") from error
        *numbers, shape = arrays
        mean, values, vectors = numbers
        fits = (
            all(array.dtype.kind == "f" and np.isfinite(array).all() for array in numbers)
            and mean.ndim in (1, 2)
            and shape.ndim == 1
            and shape.dtype.kind == "i"
            and mean.shape[-1] == np.prod(shape, dtype=int)
            and vectors.shape == (*mean.shape, values.shape[-1])
            and values.shape[:-1] == mean.shape[:-1]
            and (values > 0).all()
        )
        if not fits:
            raise ValueError(f"{str(path)!r} holds arrays that are no Gaussian fit: {remedy}")
        mean, values, vectors = (jnp.asarray(array, float) for array in numbers)
        return cls(mean, values, vectors, tuple(map(int, shape)))

    def _of(self, condition: Any, x: Array | np.ndarray) -> tuple[Array, Array, Array]:
        """Return mean, eigenvalues and eigenvectors in the type of x, by sample where by class."""
        parts: list[Any] = [self.mean, self.eigenvalues, self.eigenvectors]
        if self.mean.ndim == 2:
            condition = self.null_condition if condition is None else condition
            labels = condition if hasattr(condition, "dtype") else np.asarray(condition)
            if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim > 1:
                raise ValueError(
                    f"a Gaussian fit by class takes labels [batch] as the condition, got "
                    f"{labels.dtype} of shape {labels.shape}: fit without labels for conditions "
                    f"of another kind"
                )
            # A label without a class gives NaN, not another class's numbers.
            parts = [jnp.asarray(p).at[labels].get(mode="fill", fill_value=jnp.nan) for p in parts]
        mean, values, vectors = (jnp.asarray(part, x.dtype) for part in parts)
        return mean, values, vectors

    def _moved(
        self, x: Array | np.ndarray, condition: Any, gain: Callable, rest: Array | float
    ) -> Array:
        """Stretch the offset from the mean: by ``gain(c^2)`` along U, by ``rest`` elsewhere."""
        mean, values, vectors = self._of(condition, x)
        offset = x.reshape(len(x), -1) - mean
        return (mean + _stretched(offset, vectors, gain(values), rest)).reshape(x.shape)


def _stretched(
    offset: Array | np.ndarray, vectors: Array, gain: Array, rest: Array | float
) -> Array:
    """Return ``rest v + U (gain - rest) U^T v`` for every row v of ``offset``."""
    highest = jax.lax.Precision.HIGHEST
    along = jnp.matmul(offset[:, None], vectors, precision=highest) * (gain - rest)[..., None, :]
    inside = jnp.matmul(along, jnp.swapaxes(vectors, -1, -2), precision=highest)[:, 0]
    return rest * jnp.asarray(offset) + inside


def fit_gaussian(
    data: Float[Array | np.ndarray, " sample *shape"],
    labels: Int[Array | np.ndarray, " sample"] | None = None,
    rank: int | None = None,
    floor: float = 1e-10,
) -> GaussianFit:
    """Fit a Gaussian to data, or one to each class; in float64, on the host.

    Args:
        data: samples in the units that the network is trained on.
        labels: classes 0, 1, ... of the samples, each with at least one; None fits all alike.
            A fit by class holds one of all data as well, under the null label, and takes
            ``(classes + 1) * dim * rank`` numbers: choose a rank.
        rank: how many directions of largest variance to keep; None keeps as many as there are.
            The others count as having no variance.
        floor: least variance along a direction, so that none is divided by 0.

    Raises:
        ValueError: data that is no finite samples, labels of another number or kind or with a
            class missing, a rank above the dimension, or a floor not above 0.
    """
    positive("fit_gaussian", floor=floor)
    data = np.asarray(data, np.float64)
    if data.ndim < 2 or not data.size:
        raise ValueError(
            f"samplers.fit_gaussian: data must be samples [sample, ...], got shape {data.shape}"
        )
    if not np.isfinite(data).all():
        raise ValueError("samplers.fit_gaussian: data must be finite: leave broken samples out")
    shape, data = data.shape[1:], data.reshape(len(data), -1)
    dim = data.shape[1]
    if rank is not None:
        whole("fit_gaussian", rank=rank)
        if rank > dim:
            raise ValueError(
                f"samplers.fit_gaussian: rank {rank} is above the samples' dimension {dim}; None "
                f"keeps every direction"
            )
    sets = [data] if labels is None else [*_by_class(data, labels), data]
    fits = [_principal(one, dim if rank is None else int(rank)) for one in sets]
    most = max(len(values) for _, values, _ in fits)
    # Classes of few samples have few directions: the others are left out by being 0.
    mean = np.stack([mean for mean, _, _ in fits])
    values = np.stack([np.pad(values, (0, most - len(values))) for _, values, _ in fits])
    vectors = np.stack([np.pad(u, ((0, 0), (0, most - u.shape[1]))) for *_, u in fits])
    stacked = (jnp.asarray(a, float) for a in (mean, np.maximum(values, floor), vectors))
    centre, variances, directions = (a[0] if labels is None else a for a in stacked)
    return GaussianFit(centre, variances, directions, shape)


def _by_class(data: np.ndarray, labels: Any) -> list[np.ndarray]:
    labels = np.asarray(labels)
    if labels.shape != data.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"samplers.fit_gaussian: labels must be one integer per sample ({len(data)}), got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    counts = np.bincount(labels) if labels.min() >= 0 else np.zeros(1)
    if not counts.all():
        raise ValueError(
            f"samplers.fit_gaussian: labels must be 0, 1, ... with samples of every class, got "
            f"none of class {int(counts.argmin())} among labels {labels.min()} to {labels.max()}"
        )
    return [data[labels == label] for label in range(len(counts))]


def _principal(data: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, and the largest variances with their directions, largest first.

    The variances are those of the samples themselves (divided by their number): the Gaussian's
    denoiser is then the best affine one for them.
    """
    mean = data.mean(axis=0)
    centred = (data - mean) / np.sqrt(len(data))
    if len(data) < data.shape[1]:
        _, roots, rows = np.linalg.svd(centred, full_matrices=False)
        values, vectors = roots**2, rows.T
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred)
        values, vectors = values[::-1], vectors[:, ::-1]
    return mean, values[:rank], vectors[:, :rank]
