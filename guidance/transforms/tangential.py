"""Tangential damping of the unconditional score (Kwon et al., arXiv 2503.18137)."""

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree
from ...core.registry import register
from ..protocol import require_finite
from ..pushes import Push, Scale, Stateless, inner, ratio
from ..references.cfg import from_null


@pytree
class Tangential(Stateless):
    """Keep of the reference's noise prediction what lies along the pair's first singular vector."""

    def push_of(self, push, context):
        x, sigma = context.x, context.sigma
        main, reference = (x - context.main) / sigma, (x - context.reference) / sigma
        # The top right singular vector of the two rows [main; reference] is a combination of
        # them, with the top eigenvector of their 2x2 Gram matrix as coefficients.
        aa, bb, ab = inner(main, main), inner(reference, reference), inner(main, reference)
        half = (aa - bb) / 2
        top = (aa + bb) / 2 + jnp.sqrt(half**2 + ab**2)
        # Two forms of that eigenvector; the one that does not cancel.
        first = jnp.where(half >= 0, top - bb, ab)
        second = jnp.where(half >= 0, ab, top - aa)
        direction = first * main + second * reference
        kept = ratio(inner(reference, direction), inner(direction, direction)) * direction
        # The push as it came, with the kept part in the place of the whole reference.
        return push - sigma * (reference - kept)


@register("transform", "2503.18137")
def tangential() -> Tangential:
    """Return the transform that damps the reference's noise prediction across the pair.

    Of it stays what lies along the first right singular vector of the two predictions.

    Source: Kwon et al., arXiv 2503.18137, algorithm 1.
    """
    return Tangential()


@register("rule", "2503.18137")
def tcfg(scale: float | Array) -> Push:
    r"""Return tangential-damping CFG, ``e_null' + scale * (e_given - e_null')`` in noise space.

    ``e_null'`` is the unconditional noise prediction projected on the first right singular
    vector of the pair of predictions, per sample.

    Equation:
        \epsilon = \epsilon_\varnothing' + w (\epsilon_y - \epsilon_\varnothing'), \quad
        \epsilon_\varnothing' = v_1 v_1^\top \epsilon_\varnothing

    When to use: To make CFG gentler without a new number to choose: of the unconditional noise
    stays what it shares with the conditional one.

    Raises:
        ValueError: scale not finite.

    Source: Kwon et al., arXiv 2503.18137, algorithm 1.
    """
    require_finite("tcfg", scale=scale)
    return from_null(Tangential(), Scale(scale))
