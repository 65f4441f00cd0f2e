"""Linear multistep solvers: one step over tables of weights of the noise directions so far.

Families differ in their tables alone. Warming up with lower orders and the step to sigma = 0 are
rows of a table like any other.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .quadrature import over
from .solver import Common, direction, require_steps

MOST = 4
# Adams and Bashforth's weights on equal steps, by order: of this direction, the one before, ...
EQUAL_STEPS = {
    1: np.array([1.0]),
    2: np.array([3.0, -1.0]) / 2,
    3: np.array([23.0, -16.0, 5.0]) / 12,
    4: np.array([55.0, -59.0, 37.0, -9.0]) / 24,
}


class Table(NamedTuple):
    """A step's constants.

    Attributes:
        beyond: weights of the noise directions, newest first, beyond those of Euler's step:
            ``x' = x + (sigma' - sigma) d_0 + sum_j beyond_j d_j``. In sigma; zero for a direction
            that is not there yet.
    """

    beyond: Float[Array | np.ndarray, " *steps directions"]


def table(weights: np.ndarray, sigmas: np.ndarray, *, lower_order_final: bool = True) -> Table:
    """Return the table of ``x' = x + sum_j weights_j d_j``.

    Args:
        weights: ``[steps, directions]``, newest first, in sigma.
        sigmas: the schedule, ``[steps + 1]``.
        lower_order_final: take Euler's step to sigma = 0, which returns the prediction itself.
    """
    beyond = weights.copy()
    beyond[:, 0] -= np.diff(sigmas)
    if lower_order_final:
        beyond[sigmas[1:] == 0] = 0
    return Table(beyond)


def adams_bashforth(
    sigmas: np.ndarray, order: int, time: Callable[[np.ndarray], np.ndarray] = lambda sigma: sigma
) -> np.ndarray:
    """Return the weights of steps that extrapolate the direction as a polynomial in ``time``.

    ``w_j = int_sigma^sigma' l_j(time(s)) ds`` with l_j the Lagrange basis at the times of this
    noise level and of those before; fewer of them in the first steps.

    Args:
        sigmas: the schedule, ``[steps + 1]``.
        order: how many directions a step extrapolates from.
        time: smooth and increasing in sigma.

    Returns:
        float64 ``[steps, order]``, newest first.
    """
    weights = np.zeros((len(sigmas) - 1, order))
    for i, (start, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        # The integral is over sigma, whose times are smooth down to 0, where d sigma/d time of
        # variance-preserving diffusion is not.
        points, shares = over(start, end)
        inside = time(points)
        nodes = time(sigmas[max(0, i + 1 - order) : i + 1][::-1])
        for j, node in enumerate(nodes):
            others = np.delete(nodes, j)
            basis = np.prod((inside[:, None] - others) / (node - others), axis=1)
            weights[i, j] = shares @ basis
    return weights


@dataclasses.dataclass(frozen=True)
class Multistep(Common):
    """What linear multistep solvers share: a family defines ``name`` and ``weights``.

    ``weights(sigmas)`` is the weight of each direction in each step, ``[steps, directions]``.

    One evaluation a step. The state is the noise directions of the last ``directions - 1`` steps,
    newest first.

    Attributes:
        directions: how many noise directions a step combines.
    """

    directions: int
    name: ClassVar[str]
    # After the field: a family may make it one of its own, with a default.
    lower_order_final: ClassVar[bool] = True

    @property
    def order(self) -> int:
        """Order of convergence given starting values of that order."""
        return self.directions

    def tables(self, sigmas):
        """Return each step's `Table`.

        Raises:
            ValueError: too few steps for one to combine as many directions as asked for.
        """
        require_steps(self.name, self.directions, sigmas)
        return table(self.weights(sigmas), sigmas, lower_order_final=self.lower_order_final)

    def init(self, x):
        """Return the directions before the first step, of no weight while there are none."""
        return (jnp.zeros_like(x),) * (self.directions - 1)

    def step(self, denoise, x, interval, state, key):
        del key
        guided = denoise(x, interval.start)
        newest = direction(x, guided, interval.start)
        directions = (newest, *state)
        # Euler's step and what exceeds it: a row of zeros is Euler's to the bit, exact at 0.
        x = guided.denoised + interval.end * newest
        for weight, past in zip(interval.table.beyond, directions, strict=True):
            x = x + weight * past
        return x, guided, directions[: len(state)]
