"""Choices of nodes: which levels of a fine schedule a coarse one keeps."""

from collections.abc import Sized

import numpy as np

from ..checks import positive, whole


def enough(owner: str, steps: int, levels: Sized) -> None:
    """Refuse a number of steps that a fine schedule has not.

    Raises:
        ValueError: in the name of ``owner``.
    """
    whole(owner, steps=steps)
    if steps > len(levels) - 1:
        raise ValueError(
            f"samplers.{owner}: {steps} steps, but the fine schedule has only {len(levels) - 1}: "
            f"ask for fewer, or pass a finer one"
        )


def cheapest(
    costs: np.ndarray, steps: int, gamma: float = 1.0, *, owner: str = "tuning"
) -> np.ndarray:
    """Return the nodes of the cheapest way of ``steps`` jumps from the first node to the last.

    Dynamic programming over ``V_k(i) = min_{j>i} c_ij + gamma V_{k-1}(j)``, ``V_1(i) = c_in``:
    gamma above 1 makes late jumps dearer.

    Args:
        costs: ``[nodes, nodes]``, infinite unless i < j.
        steps: number of jumps.
        gamma: of what is still to come.
        owner: in whose name to refuse.

    Raises:
        ValueError: more steps than the nodes have.
    """
    enough(owner, steps, costs)
    positive(owner, gamma=gamma)
    value, following = costs[:, -1], []
    for _ in range(int(steps) - 1):
        ways = costs + gamma * value
        following.append(ways.argmin(axis=1))
        value = ways.min(axis=1)
    nodes = [0]
    for best in reversed(following):
        nodes.append(int(best[nodes[-1]]))
    return np.array([*nodes, len(costs) - 1])
