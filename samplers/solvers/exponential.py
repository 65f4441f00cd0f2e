"""Exponential multistep solvers: tables of weights of the predictions so far, one step for all.

The flow is linear but for the prediction D. With ``h = log(sigma/sigma')`` and a share of noise
``tau`` a step solves the linear part exactly and integrates a polynomial through predictions:

``x' = e^(-kh) x + k int_0^h e^(-k(h-u)) D(u) du + sigma' sqrt(1 - e^(-2 tau^2 h)) z``,
``k = 1 + tau^2``, u the distance from log sigma.

Families differ in their tables alone. Warming up with lower orders and the step to sigma = 0 are
rows of a table like any other, and so is a corrector: one that reuses the prediction it gets for
the next step only adds multiples of past predictions to the x that was evaluated.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.random import normal_like
from .quadrature import over
from .solver import Common, direction, source


class Table(NamedTuple):
    """A step's constants; noise and correction are None for solvers without them.

    Attributes:
        keep: of what the state has beyond its prediction, ``e^(-kh)``.
        ahead: of each past prediction beyond this one, newest first; zero for one that is not
            there yet.
        noise: standard deviation of the noise that is added.
        correct: of each past prediction beyond this one, added to x once D(x) is known.
    """

    keep: Float[Array | np.ndarray, " *steps"]
    ahead: Float[Array | np.ndarray, " *steps past"]
    noise: Float[Array | np.ndarray, " *steps"] | None = None
    correct: Float[Array | np.ndarray, " *steps past"] | None = None


@dataclasses.dataclass(frozen=True)
class ExponentialMultistep(Common):
    """What exponential multistep solvers share: a family defines ``tables``, which gives a `Table`.

    One evaluation a step. The state is the last ``past`` predictions, newest first.

    Attributes:
        past: how many predictions before this one a step looks at.
    """

    past: int

    def init(self, x):
        """Return the predictions before the first step, of no weight while there are none."""
        return (jnp.zeros_like(x),) * self.past

    def step(self, denoise, x, interval, state, key):
        table = interval.table
        guided = denoise(x, interval.start)
        newest = source(guided)
        if table.correct is not None:
            x = x + sum(w * (past - newest) for w, past in zip(table.correct, state, strict=True))
        # The step of order 1 and what exceeds it: exact at sigma' = 0, where keep is 0.
        after = guided.denoised + table.keep * interval.start * direction(x, guided, interval.start)
        for weight, past in zip(table.ahead, state, strict=True):
            after = after + weight * (past - self.anchor(guided))
        if table.noise is not None:
            after = after + table.noise * normal_like(key, x)
        return after, guided, (newest, *state)[: self.past]

    def anchor(self, guided):
        """Return the prediction from which past ones are counted."""
        return source(guided)


def log_steps(sigmas: np.ndarray) -> np.ndarray:
    """Return ``log(sigma/sigma')`` of each step, infinite for one to 0."""
    with np.errstate(divide="ignore"):
        return np.log(sigmas[:-1] / sigmas[1:])


def orders(sigmas: np.ndarray, order: int, *, lower_order_final: bool = False) -> np.ndarray:
    """Return the order of each step: as many predictions as there are, one for a step to 0.

    Args:
        sigmas: the schedule, ``[steps + 1]``.
        order: the most predictions that a step uses.
        lower_order_final: let the last steps use no more than there are steps left.
    """
    steps = len(sigmas) - 1
    result = np.minimum(np.arange(steps) + 1, order)
    if lower_order_final:
        result = np.minimum(result, steps - np.arange(steps))
    return np.where(sigmas[1:] == 0, 1, result)


def integrals(h: float, nodes: Sequence[float] | np.ndarray, k: float = 1.0) -> np.ndarray:
    """Return ``k int_0^h e^(-k(h-u)) l_j(u) du``, l_j the Lagrange basis at ``nodes``.

    Args:
        h: length of the step in log sigma.
        nodes: where predictions are known, as distances ``log(sigma/sigma_j)`` from the step's
            start: 0 for this one, negative for earlier ones, h for the one at its end.
        k: ``1 + tau^2``; -1, and the weights times sigma', for a polynomial through noise
            directions.

    Returns:
        float64, one weight a node; they add up to ``1 - e^(-kh)``.
    """
    u, shares = over(0.0, h)
    nodes = np.asarray(nodes, np.float64)
    decay = k * shares * np.exp(-k * (h - u))
    weights = np.empty(len(nodes))
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        weights[j] = decay @ np.prod((u[:, None] - others) / (node - others), axis=1)
    return weights


def past_nodes(sigmas: np.ndarray, step: int | np.integer, count: int | np.integer) -> np.ndarray:
    """Return the places of this prediction and of those before it, newest first.

    Args:
        sigmas: the schedule, ``[steps + 1]``.
        step: the number of a step.
        count: how many places.

    Returns:
        ``log(sigma_step / sigma_j)`` for j = step, step - 1, ...: 0 and then negative numbers.
    """
    return np.log(sigmas[step] / sigmas[step - count + 1 : step + 1][::-1])
