"""Energy-preserving guidance, EP-CFG: the norm of the main prediction kept (arXiv 2412.09966)."""

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import require_finite
from ..pushes import Push, Scale, Stateless, norm, ratio
from ..references.cfg import from_null


@pytree
class EnergyPreserving(Stateless):
    """Give what the push leads to the norm of the main prediction."""

    only_shrink: bool = static(default=False)

    def push_of(self, push, context):
        guided = context.main + push
        factor = ratio(norm(context.main), norm(guided))
        if self.only_shrink:
            factor = jnp.minimum(factor, 1)
        # Without a push the two norms may still differ in their last bit.
        factor = jnp.where(norm(push) > 0, factor, 1)
        return push + (factor - 1) * guided


@register("transform", "2412.09966")
def energy_preserving(only_shrink: bool = False) -> EnergyPreserving:
    """Return ``G |D_main| / |G|`` with ``G = D_main + push``, as a push.

    Comes after `scale` in a chain. Norms are per sample, over everything in it.

    Args:
        only_shrink: multiply by ``min(1, |D_main| / |G|)``: never lengthen a guided prediction.

    Source: Zhang et al., arXiv 2412.09966.
    """
    return EnergyPreserving(only_shrink)


@register("rule", "2412.09966")
def ep_cfg(scale: float | Array, only_shrink: bool = False) -> Push:
    r"""Return CFG followed by `energy_preserving`.

    Equation:
        D = G \frac{\lVert D_y \rVert}{\lVert G \rVert}, \quad G = D_\varnothing + w (D_y -
        D_\varnothing)

    When to use: Like CFG rescale, with the norm in the place of the spread and nothing to
    choose. Keeps brightness and contrast of the plain prediction at any scale.

    Raises:
        ValueError: scale not finite.

    Source: Zhang et al., arXiv 2412.09966.
    """
    require_finite("ep_cfg", scale=scale)
    return from_null(Scale(scale), EnergyPreserving(only_shrink))
