"""Some times of a series, the others unknown: forecasting and imputation."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ...core.pytrees import pytree, static
from ...core.registry import register
from .operator import Flat


@pytree
class Observe(Flat):
    """Pick entries along the first axis of samples, of ``length`` entries."""

    steps: tuple[int, ...] = static()
    length: int = static()

    def singular(self):
        return 1.0

    def observed(self, shape):
        if not shape or shape[0] != self.length:
            raise ValueError(
                f"guidance.observe: observes series of {self.length} times [batch, time, ...], "
                f"got samples of shape {tuple(shape)}"
            )
        return len(self.steps), *shape[1:]

    def forward(self, x):
        self.observed(x.shape[1:])
        return x[:, np.array(self.steps)]

    def adjoint(self, u):
        empty = jnp.zeros((u.shape[0], self.length, *u.shape[2:]), u.dtype)
        return empty.at[:, np.array(self.steps)].set(u)


@register("operator")
def observe(steps: Sequence[int], length: int) -> Observe:
    """Return the operator that observes a series at some times.

    Args:
        steps: the times, each once, from 0.
        length: how many the series has, its first axis.

    Raises:
        ValueError: times that are none, twice, or outside; when used, a series of another length.
    """
    times = tuple(int(step) for step in steps)
    if not times or len(set(times)) < len(times) or not all(0 <= one < length for one in times):
        raise ValueError(
            f"guidance.observe: steps must be different times from 0 to length - 1 = "
            f"{length - 1}, got {times}"
        )
    return Observe(times, int(length))
