"""How probable a measurement is, of a clean sample."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register


@pytree
class Likelihood:
    """The log-likelihood of a measurement with Gaussian noise, but for a constant.

    Attributes:
        operator: what measures, with a method ``forward``.
        measurement: one for all samples, or one a sample ``[batch, ...]``.
        noise: standard deviation of the measurement.
    """

    operator: Any
    measurement: Float[Array | np.ndarray, "..."]
    noise: float | Array

    differentiable = True

    def __call__(self, x0, condition, key):
        del condition, key
        residual = jnp.asarray(self.measurement, x0.dtype) - self.operator.forward(x0)
        square = jnp.sum(residual**2, axis=tuple(range(1, residual.ndim)))
        return -square / (2 * jnp.asarray(self.noise, x0.dtype) ** 2)


@register("reward")
def likelihood(operator: Any, measurement: Any, noise: float = 1.0) -> Likelihood:
    """Return the reward ``-|y - A x0|^2 / (2 noise^2)``.

    Args:
        operator: A, of `guidance.operators`, or anything with a method ``forward``.
        measurement: y, one for all samples or one a sample ``[batch, ...]``.
        noise: its standard deviation.

    Raises:
        ValueError: no operator, or noise not positive.
    """
    if not hasattr(operator, "forward"):
        raise ValueError(f"rewards.likelihood: operator has no method forward: {operator!r}")
    if not noise > 0:
        raise ValueError(f"rewards.likelihood: noise must be above 0, got {noise}")
    return Likelihood(operator, np.asarray(measurement, np.float32), noise)
