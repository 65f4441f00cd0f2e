"""Adaptive projected guidance: momentum, a bound, less of the push along the prediction.

Sadat et al., arXiv 2410.02416.

Norms are per sample over the whole sample, in the units of the data: the published norm bounds
belong to the latent spaces they were chosen in.
"""

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree
from ...core.registry import register
from ..protocol import per_sample, require_finite
from ..pushes import Push, Scale, Stateless, inner, norm, ratio
from ..references.cfg import from_null


@pytree
class Momentum:
    """Keep a running sum of pushes, ``m = push + momentum * m_before``."""

    momentum: float | Array

    def init(self, x):
        return jnp.zeros_like(x)

    def apply(self, push, context, state):
        del context
        push = push + per_sample("momentum", self.momentum, push) * state
        return push, push


@register("transform", "2410.02416")
def momentum(momentum: float | Array) -> Momentum:
    """Return ``m = push + momentum * m_before``, the carried m before any clipping.

    Args:
        momentum: negative in the paper (it damps what successive steps share); below -1 the sum
            diverges. Updated once an evaluation, so twice a step of a two-stage solver.

    Raises:
        ValueError: not finite.

    Source: arXiv 2410.02416, algorithm 1.
    """
    require_finite("momentum", momentum=momentum)
    return Momentum(momentum)


@pytree
class ClipNorm(Stateless):
    """Shorten pushes longer than a bound."""

    norm: float | Array

    def push_of(self, push, context):
        del context
        bound = per_sample("norm", self.norm, push)
        shrink = jnp.minimum(1, ratio(bound, norm(push)))
        return push * jnp.where((bound > 0) & (norm(push) > 0), shrink, 1)


@register("transform", "2410.02416")
def clip_norm(norm: float | Array) -> ClipNorm:
    """Return ``push * min(1, norm / |push|)``; 0 or infinity leave the push as it is.

    Raises:
        ValueError: negative or NaN.

    Source: arXiv 2410.02416, algorithm 1.
    """
    return _clip_norm("clip_norm", norm)


def _clip_norm(owner: str, norm: float | Array) -> ClipNorm:
    if isinstance(norm, (int, float)) and not norm >= 0:
        raise ValueError(f"guidance.{owner}: norm must not be negative, got {norm}; 0 is off")
    return ClipNorm(norm)


@pytree
class Project(Stateless):
    """Scale the part of the push along the main prediction."""

    eta: float | Array

    def push_of(self, push, context):
        main = context.main
        parallel = ratio(inner(push, main), inner(main, main)) * main
        return push - (1 - per_sample("eta", self.eta, push)) * parallel


@register("transform", "2410.02416")
def project(eta: float | Array) -> Project:
    """Return ``push_orthogonal + eta * push_parallel``, relative to the main prediction.

    Args:
        eta: 1 leaves the push as it is, 0 removes what lies along ``D_main``.

    Raises:
        ValueError: not finite.

    Source: arXiv 2410.02416, eq. 7.
    """
    require_finite("project", eta=eta)
    return Project(eta)


@register("rule", "2410.02416")
def apg(
    scale: float | Array,
    eta: float | Array = 0.0,
    norm: float | Array = 2.5,
    momentum: float | Array = -0.75,
) -> Push:
    r"""Return adaptive projected guidance, ``D_given + (scale - 1) * update``.

    ``chain(momentum, clip_norm, project, scale)`` on the null reference. The defaults are the
    paper's for EDM2-S.

    Equation:
        D = D_y + (w - 1) (m_\perp + \eta m_\parallel), \quad m = \Delta + \beta m_\text{before}
        \text{ clipped to } \lVert m \rVert \le r

    When to use: For high scales, where CFG burns contrast. What lies along the prediction is
    dropped, the rest is bounded, in the data's units. Leave the momentum out with few steps or
    a solver of two stages: a negative one tears samples apart there.

    Args:
        scale: 1 is off.
        eta: share of the push along the prediction that is kept.
        norm: bound on the push, in the latent's units; 0 for none.
        momentum: usually negative; a plain 0 is none, and leaves a rule without memory.

    Raises:
        ValueError: an argument that is not finite.

    Source: Sadat et al., arXiv 2410.02416, algorithm 1.
    """
    require_finite("apg", scale=scale, eta=eta, momentum=momentum)
    still = isinstance(momentum, (int, float)) and momentum == 0
    first = () if still else (Momentum(momentum),)
    return from_null(*first, _clip_norm("apg", norm), Project(eta), Scale(scale))
