"""Explicit Runge-Kutta steps in sigma, where the flow is dx/dsigma = (x - D) / sigma."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from .euler import Euler
from .solver import Memoryless, direction, first_of


class Tableau(NamedTuple):
    """Butcher's tableau of an explicit method.

    Attributes:
        nodes: where in the step each stage after the first is.
        stages: weights of the directions so far in each stage after the first.
        weights: of all directions in the step.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


# Heun's, Kutta's and the classical method, by order.
TABLEAUS = {
    2: Tableau((1.0,), ((1.0,),), (1 / 2, 1 / 2)),
    3: Tableau((1 / 2, 1.0), ((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    4: Tableau(
        (1 / 2, 1 / 2, 1.0),
        ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}


def runge_kutta(tableau: Tableau, denoise, x, interval):
    """Take one step to a sigma above 0.

    Returns:
        The new x, the first guided prediction and the first noise direction.
    """
    h, count = interval.end - interval.start, len(tableau.weights)
    nodes = np.array([0.0, *tableau.nodes])
    # Weights of the directions in the point that each stage leads to: the next stage's, the end.
    ahead = np.zeros((count, count))
    for number, weights in enumerate((*tableau.stages, tableau.weights)):
        ahead[number, : len(weights)] = weights
    # Not start + 1.0 * h: the last stage is at the step's end to the bit.
    sigmas = jnp.where(nodes == 1, interval.end, interval.start + nodes.astype(x.dtype) * h)

    def stage(denoise, carry, row):
        trial, directions = carry
        number, sigma, weights = row
        guided = denoise(trial, sigma)
        directions = directions.at[number].set(direction(trial, guided, sigma))
        return (x + h * jnp.tensordot(weights, directions, axes=1), directions), guided

    blank = jnp.zeros((count, *x.shape), x.dtype)
    rows = (jnp.arange(count), sigmas, ahead.astype(x.dtype))
    (x_end, directions), guided = denoise.scan(stage, (x, blank), rows)
    return x_end, first_of(guided), directions[0]


@dataclasses.dataclass(frozen=True)
class RungeKutta(Memoryless):
    """One of `TABLEAUS`, with as many evaluations a step as its order; to sigma = 0 Euler's."""

    order: int

    def step(self, denoise, x, interval, state, key):
        del key
        x, guided, _ = runge_kutta(TABLEAUS[self.order], denoise, x, interval)
        return x, guided, state

    def at(self, step, sigmas):
        return Euler() if sigmas[step + 1] == 0 else self
