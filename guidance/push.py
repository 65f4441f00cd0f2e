"""Guidance as a push away from a reference: where it comes from, and what is done to it.

``D = D_main + T_n(... T_1(D_main - D_ref))``, where the transforms ``T`` end in the scale's
``(scale - 1)``: with the identity in between this is ``D_ref + scale * (D_main - D_ref)``.
"""

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .protocol import GUIDE, MAIN, NULL, Branch, Guided, require_finite, rule, static


class Context(NamedTuple):
    """What a transform may look at besides the push itself."""

    main: Float[Array, " batch *shape"]
    reference: Float[Array, " batch *shape"]
    x: Float[Array, " batch *shape"]
    sigma: Float[Array, ""]


class Transform(Protocol):
    """A map of the push; a rule-like pytree with a state of its own."""

    def init(self, x: Float[Array, " batch *shape"]) -> Any:
        """Return the state before the first step; ``()`` when stateless."""

    def apply(
        self,
        push: Float[Array, " batch *shape"],
        context: Context,
        state: Any,
        key: Key[Array, " batch"] | None,
    ) -> tuple[Float[Array, " batch *shape"], Any]:
        """Return the transformed push and the next state."""


@rule
class Scale:
    """Multiply the push by ``scale - 1``."""

    scale: float | Array

    def __post_init__(self):
        require_finite("scale", scale=self.scale)

    def init(self, x):
        del x
        return ()

    def apply(self, push, context, state, key):
        del context, key
        scale = jnp.asarray(self.scale, push.dtype)
        return (scale - 1) * push, state


@rule
class Push:
    """Push the main prediction away from a reference's, through a chain of transforms.

    Attributes:
        reference: the branch to move away from.
        transforms: applied to ``D_main - D_ref`` in order.
    """

    transforms: tuple[Transform, ...]
    reference: Branch = static()

    def init(self, x):
        return tuple(transform.init(x) for transform in self.transforms)

    def apply(self, evaluate, x, sigma, state, key):
        main, reference = evaluate((Branch(), self.reference))
        push = main - reference
        context = Context(main, reference, x, sigma)
        states = []
        for transform, one in zip(self.transforms, state, strict=True):
            push, one = transform.apply(push, context, one, key)
            states.append(one)
        norm = jnp.sqrt(jnp.sum(push**2, axis=tuple(range(1, push.ndim))))
        return Guided(main + push, info={"push_norm": norm}), tuple(states)

    def at(self, sigma):
        del sigma
        return self


def cfg(scale: float | Array, *, network: str = MAIN) -> Push:
    """Return classifier-free guidance, ``D_null + scale * (D_given - D_null)``.

    Args:
        scale: 1 is the conditional prediction, 0 the unconditional one, more than 1 guides.
            (The original paper's ``w`` is ``scale - 1``.)
        network: which network gives the unconditional prediction; another than ``main`` where an
            unconditional network of its own was trained (EDM2 guides every size with its XS).

    Raises:
        ValueError: scale not finite.

    Source: Ho & Salimans, arXiv 2207.12598, eq. 6.
    """
    require_finite("cfg", scale=scale)
    return Push((Scale(scale),), Branch(network=network, condition=NULL))


def autoguidance(scale: float | Array) -> Push:
    """Return autoguidance, ``D_guide + scale * (D_main - D_guide)``, both on the condition given.

    Args:
        scale: 1 is the main network, 0 the guide: a smaller or less trained network, given to
            the sampler under the name ``guide``.

    Raises:
        ValueError: scale not finite.

    Source: Karras et al., arXiv 2406.02507, eq. 3.
    """
    require_finite("autoguidance", scale=scale)
    return Push((Scale(scale),), Branch(network=GUIDE))
