"""What schedules, solvers and searches refuse before anything is compiled."""

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
from jaxtyping import Array, Key, UInt32

from ..core.errors import UserError
from ..core.text import shown

# Noise levels that are known on the host, decreasing.
Levels = Sequence[float] | np.ndarray | Array
# One key, or one a sample; also as the two words of `jax.random.PRNGKey`.
Keys = Key[Array, ""] | Key[Array, " batch"] | UInt32[Array, "... 2"]


def checked(sigmas, owner: str = "sample") -> np.ndarray:
    """Return ``sigmas`` as a float64 host array, refusing what no sampler can run.

    Raises:
        ValueError: traced, too short, not finite, not decreasing, negative, or zero too early.
    """
    sigmas = on_host(sigmas, owner)
    if sigmas.ndim != 1 or sigmas.size < 2:
        raise ValueError(
            f"samplers.{owner}: sigmas must be a list of at least two noise levels, got shape "
            f"{sigmas.shape}"
        )
    if not np.isfinite(sigmas).all() or (sigmas < 0).any():
        raise ValueError(f"samplers.{owner}: sigmas must be finite and not negative")
    if (np.diff(sigmas) >= 0).any():
        where = int(np.argmax(np.diff(sigmas) >= 0))
        raise ValueError(
            f"samplers.{owner}: sigmas must decrease, but sigmas[{where + 1}]={sigmas[where + 1]:g}"
            f" is not below sigmas[{where}]={sigmas[where]:g}; sort the schedule from high to low"
        )
    return sigmas


def on_host(sigmas, owner: str) -> np.ndarray:
    """Return ``sigmas`` as a float64 host array.

    Raises:
        ValueError: traced, or no numbers, in the name of ``owner``.
    """
    if callable(sigmas):
        raise UserError(
            f"samplers.{owner}: sigmas must be a list of noise levels, got {shown(sigmas)}: call it"
        )
    try:
        return np.asarray(sigmas, np.float64)
    except Exception as error:
        raise ValueError(
            f"samplers.{owner}: sigmas must be known on the host (a list or numpy array): which "
            "evaluations exist is decided from them before anything is compiled"
        ) from error


def whole(owner: str, **numbers) -> None:
    """Refuse what does not count something: anything but a positive integer.

    Raises:
        ValueError: in the name of ``owner``.
    """
    for name, value in numbers.items():
        if not isinstance(value, Real) or not math.isfinite(value) or value < 1 or value % 1:
            raise ValueError(f"samplers.{owner}: {name} must be a positive integer, got {value}")


def plain(owner: str, **numbers) -> None:
    """Refuse what is not one finite number known on the host.

    Raises:
        ValueError: in the name of ``owner``.
    """
    for name, value in numbers.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(
                f"samplers.{owner}: {name} must be a plain finite number, known before anything is "
                f"compiled, got {value}"
            )


def switches(owner: str, **values) -> None:
    """Refuse switches that are neither on nor off.

    Raises:
        ValueError: in the name of ``owner``.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"samplers.{owner}: {name} must be True or False, got {value!r}")


def checked_order(owner: str, order: int, most: int, *, least: int = 1) -> int:
    """Return an order of convergence.

    Raises:
        ValueError: not an integer from ``least`` to ``most``, in the name of ``owner``.
    """
    if isinstance(order, bool) or order not in range(least, most + 1):
        raise ValueError(
            f"samplers.{owner}: order must be an integer from {least} to {most}, got {order!r}"
        )
    return int(order)


def span(owner: str, steps: int, sigma_min: float, sigma_max: float) -> None:
    """Refuse a number of steps, or a range of noise levels, that no schedule has.

    Raises:
        ValueError: in the name of ``owner``.
    """
    whole(owner, steps=steps)
    plain(owner, sigma_min=sigma_min, sigma_max=sigma_max)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"samplers.{owner}: need 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, "
            f"sigma_max={sigma_max}"
        )


def positive(owner: str, **numbers) -> None:
    """Refuse numbers that are not above 0.

    Raises:
        ValueError: in the name of ``owner``.
    """
    plain(owner, **numbers)
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"samplers.{owner}: need {name} > 0, got {value}")
