"""The Frechet distance of few samples, as training looks at it again and again."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from .metrics.frechet import Gaussian, Moments, frechet_distance, moments, singular_unsaid


class FrechetEvaluator:
    """Measure the Frechet distance of few samples from a real set.

    It falls with the number of samples: compare values of equal ``samples`` alone.

    Args:
        extract: from images to their features.
        real: moments of the real set's features.
        sample: from networks and the samples' indices to images; the same noise each time.
        samples: how many.
        batch_size: samples that are made at a time.
        name: of the value.
    """

    def __init__(
        self,
        extract: Callable[[UInt8[np.ndarray, "n h w c"]], Float[np.ndarray, "n feature"]],
        real: Moments | Gaussian,
        sample: Callable[[Any, Int[np.ndarray, " n"]], UInt8[np.ndarray, "n h w c"]],
        *,
        samples: int,
        batch_size: int = 64,
        name: str = "frechet_distance",
    ):
        self._extract, self._real, self._sample = extract, real, sample
        self._samples, self._batch_size, self._name = samples, batch_size, name

    def run(self, step: int, networks: Any) -> Iterator[tuple[str, float]]:
        """Yield the distance of what the networks make.

        Raises:
            ValueError: features that are not finite.
        """
        del step
        starts = range(0, self._samples, self._batch_size)
        ends = [min(start + self._batch_size, self._samples) for start in starts]
        images = np.concatenate(
            [
                self._sample(networks, np.arange(start, end))
                for start, end in zip(starts, ends, strict=True)
            ]
        )
        found = moments(self._extract(images))
        # That few samples span few directions is known: values of as many are compared.
        with singular_unsaid():
            yield self._name, frechet_distance(self._real, found)
