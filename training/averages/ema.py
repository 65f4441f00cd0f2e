"""Exponential moving averages of weights, several at once.

A schedule is a function from the step, counted from 1, to beta, the weight the average keeps:
``average <- beta * average + (1 - beta) * params``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.checks import (
    Range,
    at_least_0,
    positive,
    require_choice,
    require_ranges,
    share,
)
from ...core.errors import UserError

PROFILES = ("half_life", "power", "constant")
# The relative standard deviation at exponent 0, a plain mean over training.
WIDEST = 1 / math.sqrt(12)
WIDTH = Range(0, WIDEST, open_low=True, open_high=True, hint="0.05 or 0.10 is usual")


def update(average: Any, params: Any, beta: jax.Array | float) -> Any:
    """Return ``beta * average + (1 - beta) * params``, leaf by leaf; beta 0 copies exactly."""
    return jax.tree.map(lambda a, p: p + beta * (a - p), average, params)


@dataclasses.dataclass(frozen=True)
class Averages:
    """The averages that a run keeps: a tuple of trees like the parameters', one a schedule.

    Attributes:
        schedules: ``step -> beta``, one an average; the first is the main one.
        stds: relative width of each average with a power-function profile, None for the others.
        targeted: whether the last average is a loss's target (`losses.Role.target`).

    Raises:
        ValueError: no schedule, or another number of widths.
    """

    schedules: tuple[Callable, ...]
    stds: tuple[float | None, ...]
    targeted: bool = False

    def __post_init__(self):
        if not self.schedules or len(self.schedules) != len(self.stds):
            raise ValueError(
                f"{len(self.schedules)} averages with {len(self.stds)} widths: give at least one "
                f"schedule, and a width (or None) for each"
            )

    def init(self, params: Any) -> tuple:
        """Return the averages before the first step: copies of the parameters."""
        return tuple(jax.tree.map(jnp.copy, params) for _ in self.schedules)

    def update(self, averages: tuple, params: Any, step: jax.Array | int) -> tuple:
        """Return the averages after ``step`` (counted from 1) led to ``params``."""
        return tuple(
            update(average, params, schedule(step))
            for average, schedule in zip(averages, self.schedules, strict=True)
        )

    def with_target(self, schedule: Callable) -> "Averages":
        """Return these and a loss's target, last."""
        return Averages((*self.schedules, schedule), (*self.stds, None), targeted=True)

    def target(self, averages: tuple) -> Any:
        """Return the one that is a loss's target; None where none is."""
        return averages[-1] if self.targeted else None

    def main(self, averages: tuple) -> Any:
        """Return the one that is exported and that previews are sampled from."""
        return averages[0]


def averages(
    batch_size: int,
    *,
    profile: str = "half_life",
    images: float = 50_000,
    ramp_up: float = 0.05,
    std: float = 0.05,
    decay: float = 0.9999,
    tracked: Sequence[float] = (),
) -> Averages:
    """Return the average of ``profile``, then those of ``tracked``.

    Args:
        batch_size: images a step, over all hosts.
        profile: ``half_life``, ``power`` or ``constant``.
        images, ramp_up: of `half_life`; a ramp-up of 0 is none.
        std: of `power_function`.
        decay: of `constant`.
        tracked: widths of further averages with a power-function profile.

    Raises:
        UserError: an unknown profile or a number out of range.
    """
    require_choice("ema.profile", profile, PROFILES)
    ranges = {
        "images": positive(),
        "ramp_up": at_least_0("0 is none"),
        "std": WIDTH,
        "decay": share(open_high=True, hint="0.9999 is usual"),
    }
    given = dict(images=images, ramp_up=ramp_up, std=std, decay=decay)
    require_ranges("ema", given, ranges)
    require_ranges(
        "ema.tracked", dict(enumerate(tracked)), dict.fromkeys(range(len(tracked)), WIDTH)
    )
    profiles = {
        "constant": lambda: constant(decay),
        "half_life": lambda: half_life(images, batch_size=batch_size, ramp_up=ramp_up or None),
        "power": lambda: power_function(std),
    }
    main = std if profile == "power" else None
    more = tuple(dict.fromkeys(float(one) for one in tracked if one != main))
    return Averages((profiles[profile](), *map(power_function, more)), (main, *more))


def constant(decay: float) -> Callable:
    """Average with the same beta at every step, as DiT does (0.9999; arXiv 2212.09748, sec. 4).

    Raises:
        UserError: a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(f"EMA decay {decay} must lie in [0, 1): 0.9999 is usual")
    return lambda step: jnp.full(jnp.shape(step), decay)


def half_life(images: float, *, batch_size: int, ramp_up: float | None = 0.05) -> Callable:
    """Average with a fixed half-life, shorter at first.

    ``beta = 0.5 ^ (batch_size / min(images, ramp_up * seen))``, arXiv 2206.00364, with ``seen``
    the images up to and including this step.

    Args:
        images: half-life, in images.
        batch_size: images a step, over all hosts.
        ramp_up: bounds the half-life to this share of the images seen; None for no bound.

    Raises:
        UserError: a number that is not positive.
    """
    if not (images > 0 and batch_size > 0 and (ramp_up is None or ramp_up > 0)):
        raise UserError(
            f"EMA half-life {images}, batch size {batch_size}, ramp-up {ramp_up}: give positive "
            f"numbers (ramp-up None switches the ramp off)"
        )

    def beta(step):
        # In batches, not images: 32-bit floats count only 2^24 images one by one.
        life = images / batch_size
        if ramp_up is not None:
            life = jnp.minimum(life, ramp_up * step)
        return jnp.exp2(-1.0 / life)

    return beta


def power_function(std: float) -> Callable:
    """Average with a power-function profile, arXiv 2312.02696, eq. 127: beta = (1-1/t)^(gamma+1).

    The profile is proportional to ``tau^gamma`` over the steps so far, so the average covers the
    same share of training at every step, and the first step copies the weights.

    Args:
        std: standard deviation of the profile relative to the length of training, between 0 and
            0.2887; 0.05 and 0.10 are usual.

    Raises:
        UserError: std out of range.
    """
    exponent = exponent_of_std(std)

    def beta(step):
        # log1p keeps the digits of 1 - beta, which 1 - 1/t loses after many steps.
        return jnp.exp((exponent + 1) * jnp.log1p(-1.0 / jnp.asarray(step, float)))

    return beta


def exponent_of_std(std: float) -> float:
    """Return gamma of a relative standard deviation, arXiv 2312.02696, eq. 126.

    The largest real root of ``g^3 + 7 g^2 + (16 - std^-2) g + (12 - std^-2)``.

    Raises:
        UserError: std not strictly between 0 and 0.2887.
    """
    if not 0 < std < WIDEST:
        raise UserError(f"EMA std {std} must lie between 0 and {WIDEST:.4f}: 0.05 or 0.10 is usual")
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(roots.real.max())


def std_of_exponent(exponent: float) -> float:
    """Return ``sqrt((g + 1) / ((g + 2)^2 (g + 3)))``, arXiv 2312.02696, eq. 123."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))
