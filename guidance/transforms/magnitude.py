"""Magnitude-aware guidance, MAMBO-G: long pushes damped (arXiv 2508.03442)."""

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree
from ...core.registry import register
from ..protocol import per_sample, require_finite
from ..pushes import Push, Scale, Stateless, norm, ratio
from ..references.cfg import from_null


@pytree
class MagnitudeAware(Stateless):
    """Weaken pushes that are long beside the reference's prediction."""

    alpha: float | Array

    def push_of(self, push, context):
        difference, size = norm(context.main - context.reference), norm(context.reference)
        # Beside a prediction of zero every difference is infinitely long, and damped away.
        length = jnp.where(size > 0, ratio(difference, size), jnp.inf)
        alpha = per_sample("alpha", self.alpha, push)
        return push * jnp.where(alpha == 0, 1, jnp.exp(-alpha * length))


@register("transform", "2508.03442")
def damp_magnitude(alpha: float | Array = 8.0) -> MagnitudeAware:
    """Return the transform that multiplies the push by ``exp(-alpha |D_main - D_ref| / |D_ref|)``.

    Args:
        alpha: 0 leaves the push as it is.

    Raises:
        ValueError: not finite.

    Source: arXiv 2508.03442, eq. 7.
    """
    require_finite("damp_magnitude", alpha=alpha)
    return MagnitudeAware(alpha)


@register("rule", "2508.03442")
def magnitude_aware(scale: float | Array = 10.0, alpha: float | Array = 8.0) -> Push:
    r"""Return CFG with the scale ``1 + (scale - 1) exp(-alpha |D_given - D_null| / |D_null|)``.

    Equation:
        w_\text{eff} = 1 + (w - 1) e^{-\alpha \lVert D_y - D_\varnothing \rVert / \lVert
        D_\varnothing \rVert}

    When to use: For high scales in few steps: the push is damped where the two predictions are
    far apart, mostly in the first steps. The right alpha depends on the network.

    Args:
        scale: 1 is off; reached where the two predictions agree.
        alpha: 0 is plain CFG; more damps harder where they differ.

    Raises:
        ValueError: an argument that is not finite.

    Source: arXiv 2508.03442, eq. 7.
    """
    require_finite("magnitude_aware", scale=scale, alpha=alpha)
    return from_null(MagnitudeAware(alpha), Scale(scale))
