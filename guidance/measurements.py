"""What rules know of a sample: a measurement of it, or a reward; and how far predictions are off.

The rules take ``(operator, measurement)`` or ``(reward)``. A measurement becomes a reward too: the
log-likelihood ``-|y - A x0|^2 / 2``, or the negative norm.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.part_types import PART_TYPES
from ..core.pytrees import ByContent, pytree, static
from ..core.rewards import Reward, require_gradient
from .operators.operator import Operator

SQUARE, NORM = "square", "norm"


@pytree
class Measurement(ByContent):
    """A measurement ``y = A x0``.

    Attributes:
        operator: A.
        values: y, of one sample's measured shape, or with a batch in front: one a sample.
        owner: in whose name messages are.
    """

    operator: Operator
    values: Float[Array | np.ndarray, "..."]
    owner: str = static()

    def like(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *observed"]:
        """Return the measurement of each sample, in the samples' type.

        Raises:
            ValueError: samples that the operator is not defined for, or another shape.
        """
        wanted = tuple(self.operator.observed(x.shape[1:]))
        shape = tuple(np.shape(self.values))
        own = (1, *shape) if len(shape) == len(wanted) else shape
        full = (x.shape[0], *wanted)
        if len(own) != len(full) or any(a not in (1, b) for a, b in zip(own, full, strict=True)):
            raise ValueError(
                f"guidance.{self.owner}: the measurement has shape {shape}, and the operator "
                f"measures shape {wanted} of {x.shape[0]} samples of shape {x.shape[1:]}: give one "
                f"measurement, or {full} with one a sample (of a latent model, the operator must "
                f"measure latents)"
            )
        return jnp.broadcast_to(jnp.asarray(self.values, x.dtype).reshape(own), full)

    def residual(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *observed"]:
        """Return ``y - A x``."""
        return self.like(x) - self.operator.forward(x)

    def correction(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *shape"]:
        """Return ``A^+ (y - A x)``: what takes x to the nearest sample that was measured so."""
        return self.operator.pinv(self.residual(x))


@pytree
class Misfit(ByContent):
    """A measurement as a reward: ``-|y - A x0|^2 / 2``, or ``-|y - A x0|``, of each sample.

    Attributes:
        power: ``square`` or ``norm``.
    """

    measurement: Measurement
    power: str = static()

    differentiable = True

    def __call__(self, x0, condition, key):
        del condition, key
        residual = self.measurement.residual(x0)
        square = jnp.sum(residual**2, axis=tuple(range(1, residual.ndim)))
        if self.power == SQUARE:
            return -square / 2
        # The norm has no gradient at 0, and there is nothing to climb.
        away = square > 0
        return -jnp.where(away, jnp.sqrt(jnp.where(away, square, 1)), 0)


def measured(owner: str, operator: Operator, measurement: Any) -> Measurement:
    """Return a measurement.

    Raises:
        ValueError: no array of finite numbers, in the name of ``owner``.
    """
    return Measurement(operator, finite_array(owner, "measurement", measurement), owner)


def finite_array(owner: str, name: str, value: Any) -> Any:
    """Return an array of finite numbers, in 32 bits or more; traced ones pass.

    Raises:
        ValueError: anything else, in the name of ``owner``.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        found = np.asarray(value)
        fits = np.issubdtype(found.dtype, np.number) and found.ndim > 0 and found.size > 0
    except (TypeError, ValueError):
        found, fits = np.zeros(0), False
    if not fits:
        raise ValueError(
            f"guidance.{owner}: {name} must be an array of numbers, got {type(value).__name__}"
        )
    if not np.all(np.isfinite(found)):
        raise ValueError(f"guidance.{owner}: {name} has numbers that are not finite")
    # Integers and half precision as float32, and doubles as they are.
    return found.astype(np.result_type(found.dtype, np.float32))


def require_noise(owner: str, noise: Any) -> None:
    """Refuse a standard deviation below 0.

    Raises:
        ValueError: in the name of ``owner``.
    """
    if isinstance(noise, (int, float)) and noise < 0:
        raise ValueError(f"guidance.{owner}: noise is a standard deviation, 0 or more, got {noise}")


def require_share(owner: str, name: str, value: Any) -> None:
    """Refuse a share outside [0, 1].

    Raises:
        ValueError: in the name of ``owner``.
    """
    if isinstance(value, (int, float)) and not 0 <= value <= 1:
        raise ValueError(f"guidance.{owner}: {name} is a share from 0 to 1, got {value}")


def climbed(owner: str, goal: Reward | Operator, measurement: Any, power: str = SQUARE) -> Reward:
    """Return what a rule climbs: a reward as it is, a measurement as its `Misfit`.

    Raises:
        ValueError: a reward without gradient, one beside a measurement, or an operator without.
    """
    if PART_TYPES[Operator].accepts(goal):
        if measurement is None:
            raise ValueError(
                f"guidance.{owner}: measurement is missing: give what the operator made of the "
                f"sample, or a reward in the operator's place"
            )
        return Misfit(measured(owner, goal, measurement), power)  # type: ignore[arg-type]
    if measurement is not None:
        raise ValueError(
            f"guidance.{owner}: measurement goes with an operator; a reward has none: leave it out"
        )
    return require_gradient(f"guidance.{owner}", goal)  # type: ignore[arg-type]
