"""How good a noisy sample will be: values of rewards before the samples are clean."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.pytrees import pytree, static
from ...core.random import fold_each, normal_like
from ...core.rewards import Reward, values_of

MEAN, MANY = "mean", "many"


@pytree
class Tilt:
    """``scale V(x, sigma)``, V a guess of ``log E[exp(scale r(x0)) | x] / scale``.

    Attributes:
        reward: r, of clean samples.
        scale: inverse temperature.
        value: ``(x, sigma, condition) -> V [batch]``; None for rewards of predictions.
        variance: of the data as it is believed, for draws around the prediction.
        draws: how many; 0 takes the reward of the prediction itself.
    """

    reward: Reward
    scale: float | Array
    value: Callable | None
    variance: float | Array
    draws: int = static(default=0)

    @property
    def rewards(self) -> int:
        """How often the reward is asked for by `ahead`."""
        return 0 if self.value is not None else max(self.draws, 1)

    def of_clean(
        self, x0: Float[Array, " batch *shape"], condition: Any, key: Key[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """Return ``scale r(x0)``."""
        return jnp.asarray(self.scale, x0.dtype) * values_of(self.reward, x0, condition, key)

    def ahead(
        self,
        x: Float[Array, " batch *shape"],
        sigma: Float[Array, ""],
        denoised: Float[Array, " batch *shape"],
        condition: Any,
        key: Key[Array, " batch"],
    ) -> Float[Array, " batch"]:
        """Return ``scale V`` of noisy samples, given the prediction at them."""
        if self.value is not None:
            return jnp.asarray(self.scale, x.dtype) * self.value(x, sigma, condition)
        if not self.draws:
            return self.of_clean(denoised, condition, key)
        spread = sigma / jnp.sqrt(1 + sigma**2 / jnp.asarray(self.variance, denoised.dtype))

        def drawn(_, number):
            own = fold_each(key, number)
            near = denoised + spread * normal_like(fold_each(own, 0), denoised)
            return None, self.of_clean(near, condition, own)

        _, tilts = jax.lax.scan(drawn, None, jnp.arange(self.draws))
        return jax.nn.logsumexp(tilts, axis=0) - jnp.log(self.draws).astype(denoised.dtype)


def tilt(
    owner: str,
    reward: Reward,
    scale: float | Array,
    value: str | Callable,
    draws: int | None,
    variance: float | Array | None,
) -> Tilt:
    """Return the tilt that arguments of a constructor name.

    Raises:
        ValueError: an unknown value, draws that are no whole number from 1, or draws and variance
            that nothing asks for, in the name of ``samplers.owner``.
    """
    if value not in (MEAN, MANY) and not callable(value):
        raise ValueError(
            f"samplers.{owner}: value is 'mean', 'many' or a function (x, sigma, condition) -> "
            f"[batch], got {value!r}"
        )
    if value != MANY:
        if draws is not None or variance is not None:
            raise ValueError(
                f"samplers.{owner}: draws and variance belong to value='many', got value={value!r}"
            )
        return Tilt(reward, scale, value if callable(value) else None, 1.0)
    count = 4 if draws is None else draws
    if isinstance(count, bool) or count != int(count) or count < 1:
        raise ValueError(f"samplers.{owner}: draws must be a whole number from 1, got {draws!r}")
    return Tilt(reward, scale, None, 1.0 if variance is None else variance, int(count))
