"""Rescaling the guided prediction to the main one's spread (Lin et al., arXiv 2305.08891)."""

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree
from ...core.registry import register
from ..protocol import per_sample, require_finite
from ..pushes import Push, Scale, Stateless, ratio
from ..references.cfg import from_null


@pytree
class StdRescale(Stateless):
    """Give what the push leads to the standard deviation of the main prediction."""

    phi: float | Array

    def push_of(self, push, context):
        axes = tuple(range(1, push.ndim))
        guided, phi = context.main + push, per_sample("phi", self.phi, push)
        spread = guided.std(axis=axes, keepdims=True)
        factor = ratio(context.main.std(axis=axes, keepdims=True), spread)
        factor = jnp.where(spread > 0, factor, 1)
        # With factor 1 the push comes back bit for bit.
        return push + phi * (factor - 1) * guided


@register("transform", "2305.08891")
def std_rescale(phi: float | Array) -> StdRescale:
    """Return ``phi * G std(D_main)/std(G) + (1 - phi) * G`` with ``G = D_main + push``.

    Comes after `scale` in a chain. Standard deviations are per sample, over everything in it.

    Args:
        phi: 0 leaves the push as it is, 1 gives the main prediction's spread; 0.7 in the paper,
            which works on velocity predictions, where this library works on x0.

    Raises:
        ValueError: not finite.

    Source: arXiv 2305.08891, eq. 15 and 16.
    """
    require_finite("std_rescale", phi=phi)
    return StdRescale(phi)


@register("rule", "2305.08891")
def cfg_rescale(scale: float | Array, phi: float | Array = 0.7) -> Push:
    r"""Return CFG followed by `std_rescale`.

    Equation:
        D = \phi G \frac{\mathrm{std}(D_y)}{\mathrm{std}(G)} + (1 - \phi) G, \quad G =
        D_\varnothing + w (D_y - D_\varnothing)

    When to use: The simplest cure for too much contrast: the spread of the plain prediction,
    kept. Made for networks with zero terminal SNR.

    Raises:
        ValueError: an argument that is not finite.

    Source: Lin et al., arXiv 2305.08891, section 3.4.
    """
    require_finite("cfg_rescale", scale=scale, phi=phi)
    return from_null(Scale(scale), StdRescale(phi))
