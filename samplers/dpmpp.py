"""DPM-Solver++, multistep (Lu et al., arXiv 2211.01095), also in the form CFG++ gives it."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .solver import Common, direction, source

DIFFERENCES = ("mixed", "consistent")


class Table(NamedTuple):
    """A step's constant.

    Attributes:
        weight: of the difference between this step's prediction and the last one's,
            ``(1 - e^-h) h / (2 h_before)`` with ``h = log(sigma/sigma')``.
    """

    weight: Float[Array, " *steps"]


@dataclasses.dataclass(frozen=True)
class Dpmpp2m(Common):
    """Second order, one evaluation a step; the first step and one to sigma = 0 are Euler's.

    Attributes:
        difference: which difference of predictions stands for D's slope.
    """

    order: ClassVar[int] = 2
    renoises: ClassVar[bool] = True
    difference: str = "mixed"

    def tables(self, sigmas):
        with np.errstate(divide="ignore"):
            h = np.log(sigmas[:-1] / sigmas[1:])
        # Without a step before, or with h infinite, there is nothing to extrapolate along.
        weight = np.zeros_like(h)
        later = np.isfinite(h) & (np.arange(len(h)) > 0)
        weight[later] = (-np.expm1(-h) * h)[later] / (2 * np.roll(h, 1)[later])
        return Table(weight)

    def init(self, x):
        """Return the source of the step before, of no weight in the first."""
        return jnp.zeros_like(x)

    def step(self, denoise, x, interval, state, key):
        del key
        guided = denoise(x, interval.start)
        kept = source(guided)
        ahead = guided.denoised if self.difference == "mixed" else kept
        x = guided.denoised + interval.end * direction(x, guided, interval.start)
        return x + interval.table.weight * (ahead - state), guided, kept


def dpmpp(order: int = 2, *, difference: str = "mixed") -> Dpmpp2m:
    """Return DPM-Solver++(2M).

    With ``h = log(sigma/sigma')`` and ``r = h_before/h``:
    ``x' = D + e^-h (x - S) + (1 - e^-h) (D - S_before) / (2 r)``, where S is D, or what CFG++
    renoises from.

    Args:
        order: 2. (Order 1 is `euler`.)
        difference: matters for CFG++ alone. ``mixed`` is the published ``D - S_before``, which
            contains a share of the push and so guides further; ``consistent`` is
            ``S - S_before``, an estimate of S's slope.

    Raises:
        ValueError: another order or difference.

    Source: Lu et al., arXiv 2211.01095, algorithm 2; with CFG++: Chung et al., arXiv 2406.08070.
    """
    if order != 2:
        raise ValueError(
            f"samplers.dpmpp: order must be 2, got {order!r}; order 1 is samplers.euler()"
        )
    if difference not in DIFFERENCES:
        raise ValueError(
            f"samplers.dpmpp: difference is {' or '.join(DIFFERENCES)}, got {difference!r}"
        )
    return Dpmpp2m(difference)
