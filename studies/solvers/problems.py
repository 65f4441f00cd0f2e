"""What solvers are compared on: an exact mixture, and a network against a real set."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from ... import guidance, samplers
from ...core.random import root_key
from ...data.images import to_uint8
from ...evaluation.extractors import Extractor, in_batches
from ...evaluation.metrics.frechet import frechet_distance, moments
from ...evaluation.statistics import RealStatistics
from ...inference.job import Job
from ...models.exact.mixture import GaussianMixture


@dataclasses.dataclass
class Line:
    """A mixture of two Gaussians on a line, whose denoiser and flow are exact; float64.

    Samples start from the midpoints of equal shares of the prior, so that nothing but a solver's
    own noise is random.

    Args:
        count: how many samples.
    """

    count: int
    name: ClassVar[str] = "mixture"
    x64: ClassVar[bool] = True
    rule: ClassVar[guidance.Rule] = guidance.unguided()
    weights: ClassVar[tuple] = (0.3, 0.7)
    means: ClassVar[tuple] = (-1.0, 0.8)
    deviations: ClassVar[tuple] = (0.25, 0.4)
    metrics: ClassVar[dict[str, str]] = {
        "distance": "RMS distance from the exact flow's ends",
        "wasserstein": "Wasserstein-1 distance from the data",
    }

    def __post_init__(self):
        self.mixture = GaussianMixture(
            np.array(self.weights),
            np.array(self.means)[:, None],
            np.square(self.deviations)[:, None, None],
        )
        shares = (np.arange(self.count) + 0.5) / self.count
        # Shuffled: a sample's index chooses its random stream.
        order = np.random.default_rng(0).permutation(self.count)
        self.noise = ndtri(shares)[order, None]
        self.quantiles = np.array([self._quantile(share) for share in shares])
        # A pytree, so that programs are kept: the mixture does not change.
        self.denoise = jax.tree_util.Partial(self._predict)

    @property
    def made_of(self) -> dict[str, Any]:
        """What decides the measurements, beside a solver and its schedule."""
        numbers = (self.weights, self.means, self.deviations)
        return {"mixture": [list(one) for one in numbers], "count": self.count}

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        return self.noise.shape[1:]

    def _quantile(self, share: float) -> float:
        parts = list(zip(self.weights, self.means, self.deviations, strict=True))

        def excess(x):
            return sum(weight * ndtr((x - mean) / std) for weight, mean, std in parts) - share

        return brentq(excess, self.means[0] - 20, self.means[1] + 20)

    def _predict(self, x, sigma, condition):
        """Return the exact prediction."""
        del condition
        return self.mixture.denoise(x, sigma)

    def conditions(self, count: int) -> None:
        """Return the conditions of the first samples: none."""
        del count

    def other_noise(self, count: int) -> Float[np.ndarray, "count 1"]:
        """Return noise that samples are not made of, for searches."""
        return np.random.default_rng(1).normal(size=(count, 1))

    def ends(self, sampler: samplers.Sampler) -> Float[np.ndarray, "count 1"]:
        """Sample."""
        solver, sigmas, prior = sampler
        noise, key = jnp.asarray(self.noise), root_key(0)
        ends = samplers.sample(
            self.denoise, self.rule, solver, sigmas, noise, None, key, prior=prior
        )
        return np.asarray(ends)

    def measure(self, ends, truth) -> dict[str, float]:
        """Return the metrics of samples, ``truth`` being the ends of the exact flow."""
        return {
            "distance": float(np.sqrt(np.mean((ends - truth) ** 2))),
            "wasserstein": float(np.mean(np.abs(np.sort(ends[:, 0]) - self.quantiles))),
        }


@dataclasses.dataclass
class Images:
    """A network's images against the statistics of a real set.

    Args:
        job: networks, rule and seed; its sampler is replaced by each one that is compared.
        count: how many images.
        batch: how many at once.
        extractor, real: feature space and the real set's statistics in it.
    """

    job: Job
    count: int
    batch: int
    extractor: Extractor
    real: RealStatistics
    name: ClassVar[str] = "images"
    x64: ClassVar[bool] = False
    metrics: ClassVar[dict[str, str]] = {
        "frechet_distance": "Frechet distance",
        "distance": "RMS distance from the exact flow's images",
    }

    @property
    def made_of(self) -> dict[str, Any]:
        """What decides the measurements, beside a solver and its schedule: by contents."""
        job = self.job.made_of()
        return {
            **{name: job[name] for name in ("seed", "rule", "classes", "weights")},
            "count": self.count,
            "extractor": {k: v for k, v in self.extractor.identity.items() if k != "weights"},
            "statistics": self.real.digest,
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        return self.job.main.shape

    @property
    def rule(self) -> guidance.Rule:
        """The job's rule."""
        return self.job.rule

    @property
    def denoise(self) -> dict[str, Any]:
        """The networks."""
        return self.job.networks

    def conditions(self, count: int) -> Array | None:
        """Return the conditions of the first samples."""
        labels = self.job.labels(np.arange(count))
        return None if labels is None else jnp.asarray(labels)

    def other_noise(self, count: int) -> Float[np.ndarray, " count *shape"]:
        """Return noise that images are not made of, for searches."""
        indices = self.count + jnp.arange(count)
        keys = samplers.sample_keys(root_key(self.job.seed), samplers.NOISE, indices)
        return samplers.unit_noise(keys, self.shape)

    def ends(self, sampler: samplers.Sampler) -> Float[np.ndarray, " count *shape"]:
        """Sample."""
        job = dataclasses.replace(self.job, sampler=sampler)
        starts = range(0, self.count, self.batch)
        parts = [job.images(np.arange(i, min(i + self.batch, self.count))) for i in starts]
        return np.concatenate(parts)

    def measure(self, ends, truth) -> dict[str, float]:
        """Return the metrics of images, ``truth`` being the ends of the exact flow.

        Images that are not finite are infinitely far from everything.
        """
        if not np.isfinite(ends).all():
            return dict.fromkeys(self.metrics, np.inf)
        features = in_batches(self.extractor, to_uint8(ends)).features
        return {
            "frechet_distance": float(frechet_distance(self.real.moments, moments(features))),
            "distance": float(np.sqrt(np.mean((ends - truth) ** 2))),
        }
