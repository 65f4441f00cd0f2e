"""The protocol of guidance rules: branches, predictions, states and the identity rule.

Scales follow ``D = D_ref + scale * (D_main - D_ref)``: 1 is off, 0 is the reference. Predictions
are x0 estimates in EDM coordinates, ``x = x0 + sigma * noise``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..core.pytrees import pytree
from ..core.registry import register
from .modes import Mode

# Names that conditions and networks go by in a branch.
GIVEN, NULL = "given", "null"
MAIN, GUIDE, CLASSIFIER = "main", "guide", "classifier"


@dataclasses.dataclass(frozen=True)
class Branch:
    """One forward pass that a rule asks for.

    Attributes:
        network: name of the network, ``main``, ``guide`` or another that the sampler was given;
            ``classifier`` answers with logits and looks at no condition.
        condition: ``given``, ``null``, a label or array that takes the condition's place in every
            sample, an array of one per sample, or a mapping of these by the condition's parts.
        modes: perturbations of the network's forward pass (see `guidance.modes`); empty is the
            plain pass.
        name: what the prediction is called in `combine`; derived when not given.
    """

    network: str = MAIN
    condition: Any = GIVEN
    modes: tuple[Mode, ...] = ()
    name: str = ""

    def __post_init__(self):
        if not self.name:
            named = self.condition if isinstance(self.condition, str) else "condition"
            parts = [] if self.network == MAIN else [self.network]
            if (named != GIVEN or not parts) and self.network != CLASSIFIER:
                parts.append(named)
            parts += [mode.name for mode in self.modes]
            object.__setattr__(self, "name", "_".join(parts))

    @property
    def plain(self) -> bool:
        """Whether this is the main network's unperturbed pass with the condition given."""
        given = isinstance(self.condition, str) and self.condition == GIVEN
        return self.network == MAIN and given and not self.modes


class Guided(NamedTuple):
    """A guided prediction.

    Attributes:
        denoised: what the solver treats as D, ``[batch, ...]``.
        renoise_from: the prediction whose noise direction the solver keeps, or None to use
            ``denoised`` (CFG++ sets it).
        info: diagnostics by name, each ``[batch]``.
    """

    denoised: Float[Array, " batch *shape"]
    renoise_from: Float[Array, " batch *shape"] | None = None
    info: dict[str, Float[Array, " batch"]] = {}  # noqa: RUF012  (never written to)

    def __array__(self, dtype=None, copy=None):
        """Stand for ``denoised`` wherever numpy expects an array."""
        return np.array(self.denoised, dtype=dtype, copy=copy)


@runtime_checkable
class Evaluate(Protocol):
    """What a rule asks for predictions.

    Attributes:
        condition: what ``given`` stands for: labels ``[batch]``, another pytree of arrays, or
            None in an unconditional run.
    Some have more to tell and to be told: see `Around`.
    """

    condition: Any

    def __call__(
        self, branches: Sequence[Branch], x: Array | None = None, sigma: Array | None = None
    ) -> tuple[Array, ...]:
        """Return one x0 estimate a branch (logits ``[batch, classes]`` from a classifier).

        Args:
            branches: the forward passes wanted; those of one network may share a batch.
            x, sigma: where, when not at the point the rule was asked about.
        """


class Around:
    """Base of an ``evaluate`` around another: what is passed on beside the questions.

    Attributes:
        condition: as in the ``evaluate`` inside.
    """

    def __init__(self, evaluate: Evaluate):
        self.condition, self._evaluate = evaluate.condition, evaluate

    @property
    def end(self) -> Array | None:
        """The noise level at which the solver's step ends; None where that is not known."""
        return getattr(self._evaluate, "end", None)

    def note(self, counts: Mapping[str, int]) -> None:
        """Tell whoever counts of work that is no forward pass: ``{"main+grad": 1}``."""
        note = getattr(self._evaluate, "note", None)
        if note is not None:
            note(counts)


@runtime_checkable
class Rule(Protocol):
    """A guidance rule: a frozen dataclass registered as a pytree.

    Its numbers are leaves, so a new scale never recompiles; its structure (which branches, which
    noise levels) is static.
    """

    def init(self, x: Float[Array, " batch *shape"]) -> Any:
        """Return the state before the first step; ``()`` when stateless."""

    def apply(
        self,
        evaluate: Evaluate,
        x: Float[Array, " batch *shape"],
        sigma: Float[Array, ""],
        state: Any,
        key: Key[Array, " batch"] | None,
    ) -> tuple[Guided, Any]:
        """Ask for predictions at ``x`` and combine them; return the guided one and the state."""

    def at(self, sigma: float) -> "Rule":
        """Return the rule that holds at a noise level; it shares the state of this rule.

        Decided on the host from each step's starting sigma. Steps whose rules have the same
        structure and the same leaves run in one compiled loop. What goes by the number of the
        step is decided before, once a schedule: see `guidance.along`.
        """


def require_finite(owner: str, **numbers: Any) -> None:
    """Refuse NaN and infinity in the numbers of a rule; traced values pass.

    Raises:
        ValueError: naming the rule, the argument and the fix.
    """
    for name, value in numbers.items():
        if isinstance(value, jax.core.Tracer):
            continue
        if not np.all(np.isfinite(value)):
            raise ValueError(
                f"guidance.{owner}: {name} must be a finite number, got {value}; 1 is off"
            )


def per_sample(name: str, value: Any, like: Float[Array, " batch *shape"]) -> Array:
    """Return a number of a rule in the type of the arrays that it multiplies.

    Args:
        name: what messages call it.
        value: one number, or an array of as many axes as ``like``: one number a sample is
            ``[batch, 1, 1, 1]`` for images.
        like: predictions, or a push.

    Raises:
        ValueError: another shape. ``[batch]`` would be taken for one number a channel wherever
            there are as many of one as of the other.
    """
    number = jnp.asarray(value, like.dtype)
    fits = all(own in (1, other) for own, other in zip(number.shape, like.shape, strict=False))
    if number.ndim not in (0, like.ndim) or not fits:
        wanted = ", ".join(["batch", *["1"] * (like.ndim - 1)])
        raise ValueError(
            f"guidance: {name} has shape {number.shape} beside predictions of shape {like.shape}: "
            f"give one number, or one a sample as an array of shape [{wanted}]"
        )
    return number


def single(name: str, value: Any, dtype: Any) -> Float[Array, ""]:
    """Return a number of a rule that all samples share, as an array of a type.

    Raises:
        ValueError: several numbers.
    """
    number = jnp.asarray(value, dtype)
    if number.ndim:
        raise ValueError(f"guidance: {name} has shape {number.shape}: give one number for all")
    return number


@pytree
class Unguided:
    """The plain conditional prediction; hands any state through untouched."""

    def init(self, x):
        del x
        return ()

    def apply(self, evaluate, x, sigma, state, key):
        del x, sigma, key
        (denoised,) = evaluate((Branch(),))
        return Guided(denoised), state

    def at(self, sigma):
        del sigma
        return self


@register("rule")
def unguided() -> Unguided:
    """Return the rule that guides nothing: the prediction for the given condition."""
    return Unguided()


# What rules go around where they are given none.
PLAIN = Unguided()
