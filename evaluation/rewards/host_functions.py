"""Rewards that are computed on the host: scorers that are not written in JAX."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ...core.pytrees import pytree, static
from ...core.registry import register


@pytree
class Host:
    """A function of NumPy arrays.

    Attributes:
        function: ``(x0, condition) -> [batch]``.
    """

    function: Callable[[np.ndarray, Any], Any] = static()

    differentiable = False

    def __call__(self, x0, condition, key):
        del key
        like = jax.ShapeDtypeStruct(x0.shape[:1], x0.dtype)

        def called(x0, condition):
            asked = jax.tree.map(np.asarray, condition)
            found = np.asarray(self.function(np.asarray(x0), asked), like.dtype)
            if found.shape != like.shape:
                raise ValueError(
                    f"rewards.host: the function must return one number a sample, shape "
                    f"{like.shape}, and returns {found.shape}"
                )
            return found

        return jax.pure_callback(called, like, x0, condition)


@register("reward")
def host(function: Callable) -> Host:
    """Return the reward that a function computes on the host, by `jax.pure_callback`.

    It has no gradient: rules that climb one refuse it, searches and particles take it.

    Args:
        function: ``(x0, condition) -> [batch]`` of NumPy arrays, without side effects: it may be
            called more often than its result is used, or not at all.

    Raises:
        ValueError: something that cannot be called; when used, another shape of what it returns.
    """
    if not callable(function):
        raise ValueError(f"rewards.host: function must be callable, got {function!r}")
    return Host(function)
