"""CFG-Zero*: an optimal scale of the unconditional velocity, and still first steps.

Defined in velocity space (Fan et al., arXiv 2503.18886). With the linear path
``(1 - t) x0 + t n`` and ``t = sigma / (1 + sigma)``, an x0 prediction D at the EDM state x is the
velocity ``v = (x - (1 + sigma) D) / sigma``.
"""

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import require_finite
from ..pushes import Push, Scale, Stateless, inner
from ..references.cfg import from_null

EPSILON = 1e-8


@pytree
class OptimalScale(Stateless):
    """Scale the reference velocity by its projection coefficient before subtracting it."""

    def push_of(self, push, context):
        x, sigma = context.x, context.sigma
        main = (x - (1 + sigma) * context.main) / sigma
        reference = (x - (1 + sigma) * context.reference) / sigma
        best = inner(main, reference) / (inner(reference, reference) + EPSILON)
        # The push as it came, with the scaled reference in the place of the plain one.
        return push - (1 - best) * reference * sigma / (1 + sigma)


@register("transform", "2503.18886")
def optimal_scale() -> OptimalScale:
    """Return the transform that scales the reference's velocity by ``s*`` before it is subtracted.

    ``s* = <v_main, v_ref> / |v_ref|^2`` per sample.

    Source: Fan et al., arXiv 2503.18886, algorithm 1.
    """
    return OptimalScale()


@pytree
class ZeroInit:
    """Make the velocity zero for the first evaluations."""

    evaluations: int = static()

    def init(self, x):
        del x
        return jnp.zeros((), jnp.int32)

    def apply(self, push, context, state):
        still = context.x / (1 + context.sigma) - context.main
        return jnp.where(state < self.evaluations, still, push), state + 1


@register("transform", "2503.18886")
def zero_init(evaluations: int = 1) -> ZeroInit:
    """Return the transform that makes the velocity zero for the first evaluations; comes last.

    Args:
        evaluations: how many; 0 for none. A two-stage solver makes two a step.

    Raises:
        ValueError: a negative number.

    Source: Fan et al., arXiv 2503.18886, section 4.2.
    """
    if evaluations < 0:
        raise ValueError(f"guidance.zero_init: evaluations must be 0 or more, got {evaluations}")
    return ZeroInit(int(evaluations))


@register("rule", "2503.18886")
def cfg_zero_star(scale: float | Array, zero_init_steps: int = 1) -> Push:
    r"""Return CFG-Zero*, ``v = s* v_null + scale * (v_given - s* v_null)``.

    ``s* = <v_given, v_null> / |v_null|^2`` per sample.

    Equation:
        v = s^* v_\varnothing + w (v_y - s^* v_\varnothing), \quad s^* = \langle v_y,
        v_\varnothing \rangle / \lVert v_\varnothing \rVert^2

    When to use: For flow-matching networks that are not fully trained, whose first velocities
    are worse than none.

    Args:
        scale: 1 is off (but for the first steps).
        zero_init_steps: evaluations with zero velocity at the start, which leave a flow model's
            state where it is; 0 for none. One step of a one-stage solver is one evaluation.

    Raises:
        ValueError: scale not finite, a negative number of steps.

    Source: Fan et al., arXiv 2503.18886, algorithm 1.
    """
    require_finite("cfg_zero_star", scale=scale)
    if zero_init_steps < 0:
        raise ValueError(
            f"guidance.cfg_zero_star: zero_init_steps must be 0 or more, got {zero_init_steps}"
        )
    transforms = (OptimalScale(), Scale(scale))
    return from_null(*transforms, *((ZeroInit(zero_init_steps),) if zero_init_steps else ()))
