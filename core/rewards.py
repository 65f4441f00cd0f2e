"""The interface of rewards: numbers that say how good samples are.

Guidance differentiates them, particles and searches compare them; what they measure is for their
own packages to know.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .constructors import name_of
from .part_types import PART_TYPES, PartType


@runtime_checkable
class Reward(Protocol):
    """A number a sample, higher is better: a pytree and a pure function of clean samples.

    Attributes:
        differentiable: whether rules may take its gradient; one computed on the host, or by
            ranks, has none.
    """

    @property
    def differentiable(self) -> bool:
        """Whether the reward has a gradient."""

    def __call__(
        self,
        x0: Float[Array, " batch *shape"],
        condition: Any,
        key: Key[Array, " batch"] | None,
    ) -> Float[Array, " batch"]:
        """Return one number a sample.

        Args:
            x0: clean samples, or predictions of them.
            condition: what the samples are made for: labels ``[batch]``, another pytree, or None.
            key: one key a sample for rewards that draw, None where there is none.
        """


def _is_reward(value: Any) -> bool:
    return callable(value) and hasattr(value, "differentiable") and not isinstance(value, type)


PART_TYPES[Reward] = PartType("a reward", _is_reward, kind="reward")


def require_gradient(owner: str, reward: Reward) -> Reward:
    """Return a reward that has a gradient.

    Raises:
        ValueError: it has none, in the name of ``owner``.
    """
    if not reward.differentiable:
        raise ValueError(
            f"{owner}: the reward {name_of(reward)} has no gradient, and this rule climbs one: "
            f"give a differentiable reward, or search with it instead"
        )
    return reward


def values_of(
    reward: Callable, x0: Float[Array, " batch *shape"], condition: Any, key: Any
) -> Float[Array, " batch"]:
    """Return what a reward says of samples.

    Raises:
        ValueError: anything but one number a sample, while tracing.
    """
    found = reward(x0, condition, key)
    shape = getattr(found, "shape", None)
    if shape != x0.shape[:1]:
        raise ValueError(
            f"the reward {name_of(reward)} must return one number a sample, shape "
            f"{x0.shape[:1]}, and returns {shape if shape is not None else type(found).__name__}"
        )
    return jnp.asarray(found)


def gradient_of(
    reward: Callable, x0: Float[Array, " batch *shape"], condition: Any, key: Any
) -> Float[Array, " batch *shape"]:
    """Return each sample's gradient of its own reward."""
    return jax.grad(lambda at: jnp.sum(values_of(reward, at, condition, key)))(x0)
