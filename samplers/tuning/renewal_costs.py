"""Which steps of a schedule renew a reference that is reused at the others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.calls import takes_parts
from ...guidance.pushes import Push
from ...guidance.wrappers.renewal import reuse
from ..checks import Keys, Levels, checked, positive
from ..loop import sample
from ..networks import Networks
from ..solvers.solver import Solver
from .nodes import cheapest, enough


@takes_parts("samplers.tuning")
def renewals(
    denoise: Callable | Networks,
    rule: Push,
    solver: Solver,
    sigmas: Levels,
    noise: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    count: int,
    sigma_data: float = 0.5,
    branches: str = "fused",
) -> tuple[float, ...]:
    """Return the noise levels at which `guidance.reuse` renews a reference to lose least by it.

    ``reuse(rule, renewals(..., count=4))`` evaluates the reference at four of the schedule's steps.
    Chosen are those that minimise ``sum_k (sigma_k - sigma_k+1)^2 w_k E |e_k - e_j|^2``, by dynamic
    programming, where ``e`` is the difference between the two predictions of the noise at a step's
    last evaluation, along the rule's own trajectories, and j the last step before k that renews:
    how far samples are moved by what is reused in the place of what is. How much is left of that at
    the end lies between all (a flow that draws nothing together) and ``s^2 / (s^2 + sigma^2)`` of
    its square (Gaussian data of spread s); their geometric mean ``w_k`` at the step's end is this
    library's choice. Costs a run of the rule.

    Args:
        denoise, rule, solver, sigmas, condition, key, branches: as `samplers.sample` takes them;
            the rule as it will be reused, with the solver and the schedule of runs to come.
        noise: unit normal noise; some tens of samples are enough.
        count: how many steps renew, the first one included.
        sigma_data: the data's spread s.

    Returns:
        Noise levels of the schedule, from high to low; the first is where it starts.

    Raises:
        ValueError: a count that is no whole number from 1 to that of the steps, a spread that is
            not positive; as `samplers.sample`.
    """
    sigmas = checked(sigmas, "tuning.renewals")
    enough("tuning.renewals", count, sigmas)
    positive("tuning.renewals", sigma_data=sigma_data)
    _, kept = sample(
        denoise,
        reuse(rule, 1),
        solver,
        sigmas,
        noise,
        condition,
        key,
        save="state",
        branches=branches,
    )
    differences = kept["state"].reference
    changes = np.asarray(_changes(differences.reshape(len(differences), -1)), np.float64)
    left = 1 / np.sqrt(1 + (sigmas[1:] / sigma_data) ** 2)
    nodes = cheapest(costs_of(changes * np.diff(sigmas) ** 2 * left), count)
    return tuple(sigmas[nodes[:-1]].tolist())


def costs_of(moved: Float[np.ndarray, "step step"]) -> Float[np.ndarray, "node node"]:
    """Return what it costs to renew at step i and next at step j, infinite unless i < j.

    Args:
        moved: what it costs to reuse at step k what step i renewed, ``[i, k]``.
    """
    steps = len(moved)
    costs = np.full((steps + 1, steps + 1), np.inf)
    for i in range(steps):
        costs[i, i + 1 :] = np.cumsum([0.0, *moved[i, i + 1 :]])
    return costs


@jax.jit
def _changes(differences: Float[Array, "step number"]) -> Float[Array, "step step"]:
    """Return the mean squared change from each step's difference to each other's."""
    return jax.lax.map(lambda one: jnp.mean((differences - one) ** 2, axis=1), differences)
