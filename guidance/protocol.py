"""The protocol of guidance rules: branches, predictions, states and the identity rule.

Scales follow ``D = D_ref + scale * (D_main - D_ref)``: 1 is off, 0 is the reference. Predictions
are x0 estimates in EDM coordinates, ``x = x0 + sigma * noise``.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

# Names that conditions and networks go by in a branch.
GIVEN, NULL = "given", "null"
MAIN, GUIDE = "main", "guide"


@dataclasses.dataclass(frozen=True)
class Branch:
    """One forward pass that a rule asks for.

    Attributes:
        network: name of the network, ``main`` or ``guide`` or another that the sampler was given.
        condition: ``given``, ``null``, or an array that takes the condition's place.
        mode: forward mode of the network (perturbed attention, skipped blocks, ...), hashable;
            None is the plain pass.
        name: what the prediction is called in `combine`; derived when not given.
    """

    network: str = MAIN
    condition: Any = GIVEN
    mode: Hashable | None = None
    name: str = ""

    def __post_init__(self):
        if not self.name:
            named = self.condition if isinstance(self.condition, str) else "condition"
            parts = [] if self.network == MAIN else [self.network]
            if named != GIVEN or not parts:
                parts.append(named)
            if self.mode is not None:
                parts.append(str(self.mode))
            object.__setattr__(self, "name", "_".join(parts))


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


Evaluate = Callable[[Sequence[Branch]], tuple[Array, ...]]


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
        structure and the same leaves run in one compiled loop.
        """


T = TypeVar("T")


def rule(cls: type[T]) -> type[T]:
    """Make a class a rule: a frozen dataclass and a pytree whose static fields are marked so."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    every = dataclasses.fields(cls)
    leaves = tuple(field.name for field in every if not field.metadata.get("static"))
    fixed = tuple(field.name for field in every if field.metadata.get("static"))

    # The class itself is part of the structure. `jax.tree_util.register_dataclass` would leave it
    # out: in jax 0.10 the structures of two classes with equal fields compare equal, and a
    # program compiled for one rule may then run for another.
    def structure(one):
        return cls, *(getattr(one, name) for name in fixed)

    def with_keys(one):
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(one, name)) for name in leaves]
        return keyed, structure(one)

    def plain(one):
        return [getattr(one, name) for name in leaves], structure(one)

    def rebuilt(auxiliary, children):
        # Around __init__ and its checks: jax rebuilds with placeholders for leaves.
        one = object.__new__(cls)
        for name, value in zip((*leaves, *fixed), (*children, *auxiliary[1:]), strict=True):
            object.__setattr__(one, name, value)
        return one

    jax.tree_util.register_pytree_with_keys(cls, with_keys, rebuilt, plain)
    return cls


def static(**options):
    """Declare a dataclass field as structure: part of the compiled program, never traced."""
    return dataclasses.field(metadata={"static": True}, **options)


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


def keys_per_sample(owner: str, key: Array, batch: int) -> Key[Array, " batch"]:
    """Return one key a sample: ``fold_in(key, i)`` of a single key, several as they are.

    Raises:
        ValueError: another number of keys, in the name of ``owner``.
    """
    key = jnp.asarray(key) if not hasattr(key, "dtype") else key
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(
            f"{owner}: key must be one key or one per sample ({batch}), got {key.shape}"
        )
    return key


@rule
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


def unguided() -> Unguided:
    """Return the rule that guides nothing: the prediction for the given condition."""
    return Unguided()
