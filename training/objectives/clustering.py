"""Contiguous clusters of noise levels, exactly optimal for a cost of their members.

ANT (Go et al., arXiv 2306.00354): T noise levels in order are cut into K intervals that minimise
the sum over intervals of ``sum_t cost(t, c)``, c being the interval's middle.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ...core.registry import register
from ..losses.loss import Loss
from .multitask import Clusters, TaskWeights, UncertaintyWeights

# Noise levels among which edges are looked for, where a distribution has no table of its own.
LEVELS = 1000
COSTS = ("timestep", "snr", "affinity")


def timestep_cost(count: int) -> Float[np.ndarray, "count count"]:
    """Return ``|t - c|`` of every pair of levels."""
    index = np.arange(count)
    return np.abs(index[:, None] - index).astype(float)


def snr_cost(sigmas: Float[np.ndarray, " count"]) -> Float[np.ndarray, "count count"]:
    """Return ``|SNR(t) - SNR(c)|`` of every pair of levels, the SNR itself and not its logarithm.

    Args:
        sigmas: above 0.
    """
    snr = 1 / np.asarray(sigmas, np.float64) ** 2
    return np.abs(snr[:, None] - snr)


def affinity_cost(affinity: Float[np.ndarray, "grid grid"], count: int):
    """Return minus the affinity of every pair of levels, interpolated from a coarser grid.

    Args:
        affinity: cosines of gradients at evenly spaced levels, see `gradient_affinity`.
        count: number of levels.

    Raises:
        ValueError: a matrix that is not square, or not finite.
    """
    affinity = np.asarray(affinity, np.float64)
    if affinity.ndim != 2 or len(set(affinity.shape)) != 1 or not np.isfinite(affinity).all():
        raise ValueError(f"affinities must be a finite square matrix, got {affinity.shape}")
    known = (np.arange(len(affinity)) + 0.5) / len(affinity)
    wanted = (np.arange(count) + 0.5) / count
    rows = np.stack([np.interp(wanted, known, row) for row in affinity])
    return -np.stack([np.interp(wanted, known, column) for column in rows.T], axis=1)


def intervals(cost: Float[np.ndarray, "count count"], clusters: int) -> tuple[int, ...]:
    """Cut levels into contiguous intervals of least total cost, by dynamic programming.

    Args:
        cost: ``cost[c, t]`` of level t in an interval around level c. The middle of ``[a, b)`` is
            ``(a + b - 1) // 2``.
        clusters: number of intervals, none of them empty.

    Returns:
        ``clusters + 1`` edges, from 0 to the number of levels; interval k is
        ``[edges[k], edges[k + 1])``.

    Raises:
        ValueError: more intervals than levels, or none.
    """
    count = len(cost)
    if not 1 <= clusters <= count:
        raise ValueError(f"{count} levels cannot be cut into {clusters} clusters")
    sums = np.concatenate([np.zeros((count, 1)), np.cumsum(cost, axis=1)], axis=1)
    start, end = np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij")
    middle = np.clip((start + end - 1) // 2, 0, count - 1)
    # whole[a, b] is the cost of the interval [a, b).
    whole = np.where(start < end, sums[middle, end] - sums[middle, start], np.inf)
    best, choices = whole[0], []
    for _ in range(clusters - 1):
        totals = best[:, None] + whole
        choices.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    edges = [count]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1]]))
    return (0, *reversed(edges))


@register("objective", "2306.00354")
def clusters(
    loss: Loss,
    scale: float,
    /,
    weights: TaskWeights = UncertaintyWeights(),  # noqa: B008  (immutable)
    count: int = 5,
    cost: str = "timestep",
    affinity: str = "",
) -> Clusters:
    """Return the objective whose tasks are the optimal clusters of a distribution.

    Args:
        loss, scale: as of `objective.Mean`.
        weights: how the tasks are weighed.
        count: number of clusters. The levels of a table are clustered themselves, those of other
            distributions at `LEVELS` quantiles.
        cost: ``timestep`` (by rank), ``snr``, or ``affinity``.
        affinity: for the last, the file that ``--mode=affinity`` wrote.

    Raises:
        ValueError: a loss without noise levels, an unknown cost, or a file that does not fit it.
    """
    if cost not in COSTS:
        raise ValueError(f"cost {cost!r} is not one of {', '.join(COSTS)}")
    if (cost == "affinity") != bool(affinity):
        raise ValueError("the cost affinity, and it alone, needs affinity=FILE (--mode=affinity)")
    if not hasattr(loss, "corruption"):
        raise ValueError("clusters of noise levels need the loss of a denoiser")
    noise = loss.corruption.levels
    levels = len(getattr(noise, "sigmas", ())) or LEVELS
    if cost == "timestep":
        pairs = timestep_cost(levels)
    elif cost == "snr":
        middles = (np.arange(levels) + 0.5) / levels
        pairs = snr_cost(np.asarray(noise.quantile(jnp.asarray(middles))))
    else:
        path = Path(affinity)
        if not path.exists():
            raise ValueError(f"{path} does not exist: --mode=affinity writes it")
        with np.load(path, allow_pickle=False) as stored:
            pairs = affinity_cost(stored["affinity"], levels)
    edges = np.asarray(intervals(pairs, count)) / levels
    return Clusters(loss, scale, tuple(edges.tolist()), weights)
