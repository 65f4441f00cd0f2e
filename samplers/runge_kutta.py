"""Explicit Runge-Kutta steps in sigma, where the flow is dx/dsigma = (x - D) / sigma."""

import dataclasses
from typing import NamedTuple

from .euler import Euler
from .solver import Memoryless, direction


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
    h = interval.end - interval.start

    def moved(weights):
        return x + h * sum(w * d for w, d in zip(weights, directions, strict=True) if w)

    guided = denoise(x, interval.start)
    directions = [direction(x, guided, interval.start)]
    for node, weights in zip(tableau.nodes, tableau.stages, strict=True):
        # Not start + 1.0 * h: the last stage is at the step's end to the bit.
        sigma = interval.end if node == 1 else interval.start + node * h
        trial = moved(weights)
        directions.append(direction(trial, denoise(trial, sigma), sigma))
    return moved(tableau.weights), guided, directions[0]


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
