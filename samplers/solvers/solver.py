"""The protocol of solvers: an ``init``/``step`` pair around a guided denoiser."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ...core.part_types import PART_TYPES, PartType
from ...core.random import normal_like
from ...core.text import written
from ...guidance.protocol import Guided


class Interval(NamedTuple):
    """One step's noise levels, and the solver's own constants for it."""

    start: Float[Array | np.ndarray, " *steps"]
    end: Float[Array | np.ndarray, " *steps"]
    table: Any


@runtime_checkable
class Denoise(Protocol):
    """The guided denoiser that a step is given: it carries the rule's state between calls.

    Attributes:
        end: the noise level at which the step ends, for rules that ask; a solver that makes
            several steps of one sets it before each.
        condition: what the samples are made for, as rewards take it.
        remembers: whether the rule has a state.
    """

    end: Array | None
    condition: Any

    @property
    def remembers(self) -> bool:
        """Whether the rule has a state."""

    def __call__(
        self,
        x: Float[Array, " batch *shape"],
        sigma: Array,
        to: Array | None = None,
        *,
        scale: Array | float | None = None,
    ) -> Guided:
        """Return the guided prediction at ``x``, of noise level ``sigma``.

        May be called any number of times, but not inside another traced loop; `scan` is for that.
        ``to`` asks a flow map for its prediction on the way to another noise level, ``scale`` a
        network that takes its guidance scale as an input for that of this scale.
        """

    def scan(self, body: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
        """Run stages whose network is compiled once: `jax.lax.scan` of a body that denoises.

        Args:
            body: ``(denoise, carry, x) -> (carry, y)``, calling its ``denoise`` once.
            carry: the first state, of one structure throughout.
            xs: pytree of arrays with a row a stage.

        Returns:
            The last carry, and the stages' y stacked.
        """

    def pull(
        self, x: Float[Array, " batch *shape"], sigma: Array
    ) -> tuple[Guided, Callable[[Array], Array]]:
        """Return the guided prediction, and ``g -> J^T g`` through it: one backward pass a call."""

    def several(
        self, xs: Float[Array, "candidate batch *shape"], sigma: Array
    ) -> tuple[Guided, Callable[[Array], None]]:
        """Return the guided predictions of several candidates a sample, from one state of the rule.

        They are made in turn, in the memory of one.

        Returns:
            The predictions, stacked, and a function that is told which candidate ``[batch]`` each
            sample goes on with; the rule remembers what it saw of that one.
        """

    def reindex(self, carry: Any, ancestors: Int[Array, " batch"]) -> Any:
        """Let each sample be followed by another: in the carry, and in what the rule remembers.

        Args:
            carry: pytree of arrays ``[batch, ...]``.
            ancestors: whom each place is taken by.

        Returns:
            The carry after it.
        """


@runtime_checkable
class Solver(Protocol):
    """A way to follow dx/dsigma from one noise level to the next.

    One that asks at higher levels than a step starts from has a method ``tables_within(sigmas,
    highest)`` beside, which returns `tables` that stay at or below ``highest``, a level a step.

    Attributes:
        order: stated order of convergence of the global error, for smooth denoisers and without
            added noise.
        renoises: whether the solver says what it does with a rule that takes the noise direction
            from another prediction (`Guided.renoise_from`, CFG++); the loop refuses such rules
            elsewhere.

    One that asks for rewards has a method ``beside(step, sigmas)`` that counts them, by `plan`'s
    names; one that lays particles in groups says how many a group has by ``particles``.

    What it asks networks for is ``x0`` unless an attribute ``estimate`` says ``consistency`` or
    ``flow_map``; an attribute ``scale`` is a guidance scale that the network takes as an input.
    """

    @property
    def order(self) -> int:
        """Stated order of convergence."""

    @property
    def renoises(self) -> bool:
        """Whether a rule may take the noise direction from another prediction."""

    def check(self, batch: int, condition: Any) -> None:
        """Refuse a batch that the solver cannot take; on the host, before anything is traced."""

    def tables(self, sigmas: np.ndarray) -> Any:
        """Return per-step constants, computed in float64: a pytree of ``[steps, ...]`` arrays."""

    def init(self, x: Float[Array, " batch *shape"]) -> Any:
        """Return the state before the first step; ``()`` when stateless."""

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, " batch *shape"],
        interval: Interval,
        state: Any,
        key: Key[Array, " batch"],
    ) -> tuple[Float[Array, " batch *shape"], Guided, Any]:
        """Advance ``x`` over one interval.

        Returns the new x, the step's first guided prediction (for trajectories) and the state.
        """

    def at(self, step: int, sigmas: np.ndarray) -> "Solver":
        """Return the solver that takes step number ``step``; it shares the state of this one."""


PART_TYPES[Solver] = PartType(
    "a solver",
    lambda value: callable(getattr(value, "step", None)) and not isinstance(value, type),
)


class Common:
    """Base of solvers that take every step alike, any batch, and have no constants."""

    renoises: ClassVar[bool] = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        # Put into the class itself, as a dataclass would otherwise write one of its own.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Common.__repr__

    def __repr__(self) -> str:
        return written(self, always=("order",))

    def check(self, batch, condition):
        """Take any batch."""
        del batch, condition

    def tables(self, sigmas):
        """Return no constants."""
        del sigmas
        return ()

    def tables_within(self, sigmas, highest):
        """Return `tables`: no level is higher than that which a step starts from."""
        del highest
        return self.tables(sigmas)

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


class Kernel(Memoryless):
    """Base of solvers whose step is one evaluation and one Gaussian draw: what particles move by.

    They define ``transition`` and ``random``; the step is theirs, and particle methods, which look
    at the prediction before anything is drawn, ask for the draw alone.
    """

    @property
    def random(self) -> bool:
        """Whether steps add noise: copies of a particle never part without."""
        raise NotImplementedError

    def transition(
        self, x: Float[Array, " batch *shape"], guided: Guided, interval: Interval
    ) -> tuple[Float[Array, " batch *shape"], Float[Array, ""]]:
        """Return the mean of a step's end, and the standard deviation that all its values have."""
        raise NotImplementedError

    def move(
        self,
        x: Float[Array, " batch *shape"],
        guided: Guided,
        interval: Interval,
        key: Key[Array, " batch"],
    ) -> Float[Array, " batch *shape"]:
        """Draw the step's end, given the prediction at x."""
        mean, deviation = self.transition(x, guided, interval)
        return mean + deviation * normal_like(key, x)

    def step(self, denoise, x, interval, state, key):
        guided = denoise(x, interval.start)
        return self.move(x, guided, interval, key), guided, state


def source(guided: Guided) -> Array:
    """Return the prediction whose noise direction a step keeps."""
    return guided.denoised if guided.renoise_from is None else guided.renoise_from


def direction(x: Array, guided: Guided, sigma: Array) -> Array:
    """Return dx/dsigma, the noise direction ``(x - S) / sigma`` that the step keeps."""
    return (x - source(guided)) / sigma


def two_stages(
    denoise: Denoise,
    x: Float[Array, " batch *shape"],
    sigmas: tuple[Array, Array],
    ahead: Callable[[Guided], Array],
) -> tuple[Guided, Float[Array, " batch *shape"], Guided]:
    """Evaluate at x, and where the prediction there leads.

    Args:
        denoise: of the step.
        x: noisy samples.
        sigmas: noise levels of the two evaluations.
        ahead: from the first prediction to the point of the second.

    Returns:
        The first prediction, the second point, and the prediction there.
    """

    def stage(denoise, point, sigma):
        guided = denoise(point, sigma)
        return ahead(guided), (point, guided)

    _, (points, guided) = denoise.scan(stage, x, jnp.stack(sigmas))
    first, second = (jax.tree.map(lambda value, n=n: value[n], guided) for n in range(2))
    return first, points[1], second


def first_of(stages: Any) -> Any:
    """Return the first row of what `Denoise.scan` stacked."""
    return jax.tree.map(lambda rows: rows[0], stages)


class TooFewSteps(ValueError):
    """A schedule too short for a solver's order."""


def require_steps(owner: str, order: int, sigmas: np.ndarray) -> None:
    """Refuse a schedule with fewer steps than an order.

    Raises:
        TooFewSteps: for one step to combine as many predictions as the order asks for.
    """
    steps = len(sigmas) - 1
    if steps < order:
        raise TooFewSteps(
            f"samplers.{owner}: a step of order {order} combines {order} predictions, which "
            f"{steps} steps never have: take {order} steps or more, or a solver of order {steps} "
            f"or less"
        )
