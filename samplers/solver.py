"""The protocol of solvers: an ``init``/``step`` pair around a guided denoiser."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float, Key

from ..guidance.protocol import Guided


class Interval(NamedTuple):
    """One step's noise levels, and the solver's own constants for it."""

    start: Float[Array, ""]
    end: Float[Array, ""]
    table: Any


class Solver(Protocol):
    """A way to follow dx/dsigma from one noise level to the next.

    Attributes:
        order: stated order of convergence of the global error, for smooth denoisers and without
            added noise.
        renoises: whether the solver says what it does with a rule that takes the noise direction
            from another prediction (`Guided.renoise_from`, CFG++); the loop refuses such rules
            elsewhere.
    """

    order: int
    renoises: bool

    def check(self, batch: int, condition: Any) -> None:
        """Refuse a batch that the solver cannot take; on the host, before anything is traced."""

    def tables(self, sigmas: np.ndarray) -> Any:
        """Return per-step constants, computed in float64: a pytree of ``[steps, ...]`` arrays."""

    def init(self, x: Float[Array, " batch *shape"]) -> Any:
        """Return the state before the first step; ``()`` when stateless."""

    def step(
        self,
        denoise: Callable[[Array, Array], Guided],
        x: Float[Array, " batch *shape"],
        interval: Interval,
        state: Any,
        key: Key[Array, " batch"],
    ) -> tuple[Float[Array, " batch *shape"], Guided, Any]:
        """Advance ``x`` over one interval.

        ``denoise(x, sigma)`` may be called any number of times, but not inside another traced
        loop: it carries the rule's state from one call to the next. Returns the new x, the
        step's first guided prediction (for trajectories) and the state.
        """

    def at(self, step: int, sigmas: np.ndarray) -> "Solver":
        """Return the solver that takes step number ``step``; it shares the state of this one."""


class Common:
    """Base of solvers that take every step alike, any batch, and have no constants."""

    renoises: ClassVar[bool] = False

    def check(self, batch, condition):
        """Take any batch."""
        del batch, condition

    def tables(self, sigmas):
        """Return no constants."""
        del sigmas
        return ()

    def at(self, step, sigmas):
        """Return this solver, for every step."""
        del step, sigmas
        return self


class Memoryless(Common):
    """Base of solvers that also carry nothing: they define ``step``."""

    def init(self, x):
        """Return the empty state."""
        del x
        return ()


def source(guided: Guided) -> Array:
    """Return the prediction whose noise direction a step keeps."""
    return guided.denoised if guided.renoise_from is None else guided.renoise_from


def direction(x: Array, guided: Guided, sigma: Array) -> Array:
    """Return dx/dsigma, the noise direction ``(x - S) / sigma`` that the step keeps."""
    return (x - source(guided)) / sigma
