"""What changes while a few-step student is trained: pure functions of a traced step.

All of them take the step counted from 0 as a number or a traced scalar and return traced numbers,
so that a new stage compiles nothing anew.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int


def growing_intervals(
    step: Int[ArrayLike, ""], total: int, start: int = 2, end: int = 150
) -> Int[Array, ""]:
    """Return the number of intervals of consistency training, from ``start`` to ``end``.

    ``ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1)``, at least 1; there is a node more. (The
    published code has it so: s0 and s1 + 1 bound the nodes.)

    Source: Song et al., arXiv 2303.01469, appendix C, as in its code.
    """
    share = jnp.clip(jnp.asarray(step, jnp.float32) / total, 0, 1)
    root = jnp.sqrt(share * ((end + 1) ** 2 - start**2) + start**2)
    return jnp.maximum(jnp.ceil(root - 1), 1).astype(jnp.int32)


def target_decay(
    intervals: Int[ArrayLike, ""], start: int = 2, decay: float = 0.9
) -> Float[Array, ""]:
    """Return the weight that consistency training's target keeps: ``exp(s0 ln(mu0) / N)``.

    Args:
        intervals: of this step.
        start: the first number of intervals in the schedule's formula.
        decay: the weight there.

    Source: Song et al., arXiv 2303.01469, appendix C.
    """
    return jnp.exp(start * math.log(decay) / jnp.asarray(intervals, jnp.float32))


def doubling_intervals(
    step: Int[ArrayLike, ""], total: int, start: int = 10, end: int = 1280
) -> Int[Array, ""]:
    """Return the number of intervals of improved consistency training, doubled in equal stages.

    ``min(s0 2^floor(k / K'), s1)`` with ``K' = floor(K / (log2(floor(s1 / s0)) + 1))``.

    Source: Song & Dhariwal, arXiv 2310.14189, eq. 7 (11, 21, ..., 1281 nodes).
    """
    stages = math.floor(math.log2(end // start)) + 1
    stage = jnp.asarray(step, jnp.int32) // max(total // stages, 1)
    # Capped before it is a power: 2^31 has no int32.
    return jnp.minimum(start * 2 ** jnp.minimum(stage, stages), end).astype(jnp.int32)


def stage(step: Int[ArrayLike, ""], every: int, last: int) -> Int[Array, ""]:
    """Return the number of stages of ``every`` steps behind, at most ``last``."""
    return jnp.minimum(jnp.asarray(step, jnp.int32) // every, last)


def ect_end(
    sigma: Float[ArrayLike, "..."],
    stage: Int[ArrayLike, ""],
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
) -> Float[Array, "..."]:
    """Return the lower noise level of a pair of easy consistency tuning; 0 is the data.

    ``max(0, sigma (1 - n(sigma) / q^(stage + 1)))`` with ``n = 1 + k sigmoid(-b sigma)``: from
    denoising (all 0) towards pairs that nearly touch.

    Source: Geng et al., arXiv 2406.14548, eq. 9, as in its code.
    """
    sigma = jnp.asarray(sigma)
    count = 1 + k * jax.nn.sigmoid(-b * sigma)
    return jnp.maximum(sigma * (1 - count / q ** (jnp.asarray(stage, sigma.dtype) + 1)), 0)


def halved_steps(step: Int[ArrayLike, ""], start: int, every: int) -> Int[Array, ""]:
    """Return the steps of the student of progressive distillation: half its teacher's.

    Args:
        step: counted from 0.
        start: steps of the first teacher, a power of two.
        every: updates a halving.

    Source: Salimans & Ho, arXiv 2202.00512, algorithm 2.
    """
    halvings = stage(step, every, int(math.log2(start)) - 1)
    return jnp.asarray(start, jnp.int32) // 2 ** (halvings + 1)


def warm_up(step: Int[ArrayLike, ""], steps: int) -> Float[Array, ""]:
    """Return the share of a tangent that counts: from 0 to 1 in so many steps; 0 steps are none.

    Source: Lu & Song, arXiv 2410.11081, sec. 4.1.
    """
    return jnp.clip(jnp.asarray(step, jnp.float32) / max(steps, 1) + (not steps), 0, 1)
