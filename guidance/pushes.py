"""Guidance as a push away from a reference: where it comes from, and what is done to it.

``D = D_main + T_n(... T_1(D_main - D_ref))``, where the transforms ``T`` end in the scale's
``(scale - 1)``: with nothing in between this is ``D_ref + scale * (D_main - D_ref)``.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..core.pytrees import pytree, static
from ..core.registry import register
from .protocol import Branch, Evaluate, Guided, per_sample, require_finite


@runtime_checkable
class Reference(Protocol):
    """Where a push comes from: a pytree that asks for predictions and returns the two ends of it.

    ``D_main`` is what scale 1 gives: the plain prediction, for most references.
    """

    def predictions(
        self,
        evaluate: Evaluate,
        x: Float[Array, " batch *shape"],
        sigma: Float[Array, ""],
        key: Key[Array, " batch"] | None,
    ) -> tuple[Float[Array, " batch *shape"], Float[Array, " batch *shape"]]:
        """Return ``D_main`` and ``D_ref``."""


@pytree
class At:
    """One branch, the same at every noise level, as the reference."""

    branch: Branch = static()

    def predictions(self, evaluate, x, sigma, key):
        del x, sigma, key
        return evaluate((Branch(), self.branch))


class Perturbed:
    """Base of references that are one branch made anew at every evaluation: `branch` alone."""

    def predictions(self, evaluate, x, sigma, key):
        """Return the plain prediction and that of ``branch``."""
        return evaluate((Branch(), self.branch(x, sigma, key)))


class Context(NamedTuple):
    """What a transform may look at besides the push itself.

    ``x`` is 0 and ``sigma`` 1 where the caller of `guidance.combine` gave none: there x0, noise,
    score and velocity differ by a factor alone.
    """

    main: Float[Array, " batch *shape"]
    reference: Float[Array, " batch *shape"]
    x: Float[Array, " batch *shape"]
    sigma: Float[Array, ""]


@runtime_checkable
class Transform(Protocol):
    """A map of the push; a rule-like pytree with a state of its own."""

    def init(self, x: Float[Array, " batch *shape"]) -> Any:
        """Return the state before the first evaluation; ``()`` when stateless."""

    def apply(
        self, push: Float[Array, " batch *shape"], context: Context, state: Any
    ) -> tuple[Float[Array, " batch *shape"], Any]:
        """Return the transformed push and the next state."""


class Stateless:
    """Base of transforms that carry nothing: they define ``push_of`` alone."""

    def init(self, x):
        """Return the empty state."""
        del x
        return ()

    def apply(self, push, context, state):
        """Apply ``push_of`` and hand the state through."""
        return self.push_of(push, context), state


@pytree
class Scale(Stateless):
    """Multiply the push by ``scale - 1``."""

    scale: float | Array

    def push_of(self, push, context):
        del context
        return (per_sample("scale", self.scale, push) - 1) * push


@register("transform")
def scale(scale: float | Array) -> Scale:
    """Return the transform that gives the push its length; 1 is off, 0 leads to the reference.

    Args:
        scale: one number, or one a sample as ``[batch, 1, 1, 1]`` (as many axes as samples have).

    Raises:
        ValueError: scale not finite.
    """
    require_finite("scale", scale=scale)
    return Scale(scale)


@pytree
class Chain:
    """Transforms one after another, each seeing the push the one before it left."""

    transforms: tuple[Transform, ...]

    def init(self, x):
        return tuple(transform.init(x) for transform in self.transforms)

    def apply(self, push, context, state):
        states = []
        for transform, own in zip(self.transforms, state, strict=True):
            push, own = transform.apply(push, context, own)
            states.append(own)
        return push, tuple(states)


@register("transform")
def chain(*transforms: Transform) -> Chain:
    """Return the transforms in order, as one.

    Raises:
        TypeError: something that is no transform.
    """
    return Chain(transforms)


@pytree
class Push:
    """Push the main prediction away from a reference's.

    Attributes:
        transform: applied to ``D_main - D_ref``.
        reference: where the push comes from, a `Reference`; a `Branch` stands for itself.
        renoise: whether solvers keep the noise direction of the reference (CFG++).
    """

    transform: Transform
    reference: Any
    renoise: bool = static(default=False)

    def __post_init__(self):
        if isinstance(self.reference, Branch):
            object.__setattr__(self, "reference", At(self.reference))

    def init(self, x):
        return self.transform.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        main, reference = self.reference.predictions(evaluate, x, sigma, key)
        return self.guided(main, reference, x, sigma, state)

    def guided(self, main, reference, x, sigma, state):
        """Return the guided prediction of two that are there, and the state."""
        context = Context(main, reference, x, sigma)
        push, state = self.transform.apply(main - reference, context, state)
        info = {"push_norm": norm(push).reshape(-1)}
        return Guided(main + push, reference if self.renoise else None, info), state

    def at(self, sigma):
        del sigma
        return self


@register("rule")
def push(reference: Reference | Branch, *push: Transform) -> Push:
    """Return the rule that pushes away from a reference through transforms, in order.

    ``push(null(), momentum(-0.75), clip_norm(2.5), project(0.0), scale(4.0))`` is APG.

    Args:
        reference: `null`, `weak`, `independent`, `identity_attention`, ... or a `Branch`.
        push: transforms; without `scale` or `scheduled` the push has scale 2.

    Raises:
        TypeError: something that is no transform, or no reference.
    """
    return Push(chain(*push), reference)


def inner(a: Array, b: Array) -> Array:
    """Return each sample's inner product, kept broadcastable: ``[batch, 1, ...]``."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def norm(a: Array) -> Array:
    """Return each sample's Euclidean norm, kept broadcastable: ``[batch, 1, ...]``."""
    return jnp.sqrt(inner(a, a))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, giving 0 where the denominator is 0: nothing to project on or to scale by."""
    safe = jnp.where(denominator == 0, 1, denominator)
    return jnp.where(denominator == 0, 0, numerator / safe)
