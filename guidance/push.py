"""Guidance as a push away from a reference: where it comes from, and what is done to it.

``D = D_main + T_n(... T_1(D_main - D_ref))``, where the transforms ``T`` end in the scale's
``(scale - 1)``: with nothing in between this is ``D_ref + scale * (D_main - D_ref)``.
"""

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .protocol import Branch, Guided, require_finite, rule, static


class Context(NamedTuple):
    """What a transform may look at besides the push itself.

    ``x`` is 0 and ``sigma`` 1 where the caller of `guidance.combine` gave none: there x0, noise,
    score and velocity differ by a factor alone.
    """

    main: Float[Array, " batch *shape"]
    reference: Float[Array, " batch *shape"]
    x: Float[Array, " batch *shape"]
    sigma: Float[Array, ""]


class Transform(Protocol):
    """A map of the push; a rule-like pytree with a state of its own."""

    def init(self, x: Float[Array, " batch *shape"]) -> Any:
        """Return the state before the first evaluation; ``()`` when stateless."""

    def apply(
        self,
        push: Float[Array, " batch *shape"],
        context: Context,
        state: Any,
        key: Key[Array, " batch"] | None,
    ) -> tuple[Float[Array, " batch *shape"], Any]:
        """Return the transformed push and the next state."""


class Stateless:
    """Base of transforms that carry nothing: they define ``push_of`` alone."""

    def init(self, x):
        """Return the empty state."""
        del x
        return ()

    def apply(self, push, context, state, key):
        """Apply ``push_of`` and hand the state through."""
        del key
        return self.push_of(push, context), state


@rule
class Scale(Stateless):
    """Multiply the push by ``scale - 1``."""

    scale: float | Array

    def push_of(self, push, context):
        del context
        return (jnp.asarray(self.scale, push.dtype) - 1) * push


def scale(scale: float | Array) -> Scale:
    """Return the transform that gives the push its length; 1 is off, 0 leads to the reference.

    Raises:
        ValueError: scale not finite.
    """
    require_finite("scale", scale=scale)
    return Scale(scale)


@rule
class Chain:
    """Transforms one after another, each seeing the push the one before it left."""

    transforms: tuple[Transform, ...]

    def init(self, x):
        return tuple(transform.init(x) for transform in self.transforms)

    def apply(self, push, context, state, key):
        states = []
        for transform, own in zip(self.transforms, state, strict=True):
            push, own = transform.apply(push, context, own, key)
            states.append(own)
        return push, tuple(states)


def chain(*transforms: Transform) -> Chain:
    """Return the transforms in order, as one.

    Raises:
        TypeError: something that is no transform.
    """
    for transform in transforms:
        if not hasattr(transform, "init") or not hasattr(transform, "apply"):
            raise TypeError(f"guidance.chain: {transform!r} is no transform of the push")
    return Chain(tuple(transforms))


@rule
class Push:
    """Push the main prediction away from a reference's.

    Attributes:
        transform: applied to ``D_main - D_ref``.
        reference: the branch to move away from.
    """

    transform: Transform
    reference: Branch = static()

    def init(self, x):
        return self.transform.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        main, reference = evaluate((Branch(), self.reference))
        context = Context(main, reference, x, sigma)
        push, state = self.transform.apply(main - reference, context, state, key)
        return Guided(main + push, info={"push_norm": norm(push).reshape(-1)}), state

    def at(self, sigma):
        del sigma
        return self


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
