"""What an Euler jump between two levels of a fine trajectory costs."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..tuning.trajectories import Trajectories


def _squared(y, x, sigma, ends):
    # In the coordinates of the linear path, x / (1 + sigma), whose straight lines are the same.
    return jnp.sum((y - x) ** 2, axis=1) / (1 + sigma) ** 2


def _l2(y, x, sigma, ends):
    return jnp.linalg.norm(y - x, axis=1)


def _l1(y, x, sigma, ends):
    return jnp.sum(jnp.abs(y - x), axis=1)


def _deviation(y, x, sigma, ends):
    """Return how much further from the line between the trajectory's ends y is than x."""
    start, end = ends
    line = end - start
    line = line / jnp.linalg.norm(line, axis=1, keepdims=True)

    def distance(point):
        gap = point - end
        return jnp.linalg.norm(gap - jnp.sum(gap * line, axis=1, keepdims=True) * line, axis=1)

    return distance(y) - distance(x)


# name -> cost of arriving at y rather than x, both [batch, elements], of each sample
COSTS: dict[str, Callable] = {"l2": _l2, "l1": _l1, "dev": _deviation, "flow": _squared}


def jump_costs(trajectories: Trajectories, cost: str) -> np.ndarray:
    """Return the mean cost of ``x_i + (sigma_j - sigma_i) d_i`` in place of x_j, for all i < j.

    Args:
        trajectories: a teacher's.
        cost: "l2" and "l1" are norms of the difference, "dev" is the distance from the line
            between the trajectory's ends in excess of x_j's own (it may be negative), "flow" the
            squared norm in the coordinates of the linear path, ``(1 - t) x``.

    Returns:
        float64 ``[nodes, nodes]``, infinite unless i < j.

    Raises:
        ValueError: an unknown cost, "dev" of samples that are single numbers, or trajectories
            that are not finite.
    """
    if cost not in COSTS:
        raise ValueError(f"samplers.tuning: cost is one of {', '.join(COSTS)}, got {cost!r}")
    if cost == "dev" and trajectories.x[0, 0].size == 1:
        raise ValueError(
            "samplers.tuning: samples of one number are never away from a line: take cost='l2'"
        )
    sigmas = jnp.asarray(trajectories.sigmas, trajectories.x.dtype)
    costs = np.array(_every_jump(cost, sigmas, trajectories.x, trajectories.denoised), np.float64)
    forward = np.triu(np.ones(costs.shape, bool), 1)
    if not np.isfinite(costs[forward]).all():
        raise ValueError(
            "samplers.tuning: the fine trajectory is not finite: take a finer schedule or "
            "another solver for it"
        )
    return np.where(forward, costs, np.inf)


@partial(jax.jit, static_argnums=0)
def _every_jump(
    cost: str,
    sigmas: Float[Array, " nodes"],
    x: Float[Array, "nodes batch *shape"],
    denoised: Float[Array, "steps batch *shape"],
) -> Float[Array, "nodes nodes"]:
    x, denoised = (a.reshape(*a.shape[:2], -1) for a in (x, denoised))
    ends = x[0], x[-1]

    def row(start):
        sigma, here, prediction = start
        direction = (here - prediction) / sigma

        # One jump at a time: memory for a batch, not for a trajectory more.
        def one(end):
            to, there = end
            # Euler's step without the cancellation of x + (sigma' - sigma) d at high noise.
            return jnp.mean(COSTS[cost](prediction + to * direction, there, to, ends))

        return jax.lax.map(one, (sigmas, x))

    costs = jax.lax.map(row, (sigmas[:-1], x[:-1], denoised))
    return jnp.concatenate([costs, jnp.zeros_like(costs[:1])])
