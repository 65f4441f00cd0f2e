"""A solver whose every step has its own prediction, order and corrector.

The unified steps of Liu et al., arXiv 2312.07243: what searches over solvers choose from.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register
from .exponential import integrals, log_steps, orders, past_nodes
from .solver import Common, direction, source

PREDICTIONS = ("data", "noise")
MOST = 3


class Choice(NamedTuple):
    """How one step is taken.

    Attributes:
        prediction: what is extrapolated in log sigma: ``data`` (D) or ``noise`` (dx/dsigma).
        order: from how many predictions, 1 to 3.
        corrector: whether the step is redone with the prediction at its end, once that is known.
    """

    prediction: str = "data"
    order: int = 2
    corrector: bool = False


# Every choice there is: a solver holds numbers of entries.
MENU = tuple(Choice(*entry) for entry in product(PREDICTIONS, range(1, MOST + 1), (False, True)))


class Table(NamedTuple):
    """A step's constants; weights are of past predictions beyond this one, newest first.

    Attributes:
        keep: of what the state has beyond its prediction, ``sigma'/sigma``.
        follow: of what the last corrector added: a direction belongs to the state it was
            evaluated at.
        data, noise: of predictions D and of directions, in the step.
        correct_data, correct_noise: of the same, added to x once D(x) is known.
    """

    keep: Float[Array | np.ndarray, " *steps"]
    follow: Float[Array | np.ndarray, " *steps"]
    data: Float[Array | np.ndarray, " *steps past"]
    noise: Float[Array | np.ndarray, " *steps past"]
    correct_data: Float[Array | np.ndarray, " *steps past"]
    correct_noise: Float[Array | np.ndarray, " *steps past"]


@pytree
class PerStep(Common):
    """One evaluation a step. The state is the last predictions and directions, newest first.

    Attributes:
        entries: the number in `MENU` of each step's choice. They enter tables alone, which are
            computed on the host: as leaves, they leave the compiled program as it is.
    """

    entries: tuple[int, ...]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """How each step is taken."""
        return tuple(MENU[entry] for entry in self.entries)

    @property
    def order(self) -> int:
        """Order of convergence given starting values of that order: that of the lowest step."""
        return min(choice.order + choice.corrector for choice in self.choices)

    def tables(self, sigmas):
        """Return each step's `Table`.

        Raises:
            ValueError: another number of steps than of choices.
        """
        steps = len(sigmas) - 1
        if steps != len(self.entries):
            raise ValueError(
                f"samplers.per_step: {len(self.entries)} choices for the {steps} steps of this "
                f"schedule: give one choice a step, or a schedule of {len(self.entries)} steps"
            )
        h, allowed = log_steps(sigmas), orders(sigmas, MOST)
        keep, follow = np.exp(-h), np.zeros(steps)
        weights = {name: np.zeros((steps, MOST)) for name in PREDICTIONS}
        corrections = {name: np.zeros((steps, MOST)) for name in PREDICTIONS}
        for i, (prediction, order, corrector) in enumerate(self.choices):
            if sigmas[i + 1] == 0:
                continue
            nodes = past_nodes(sigmas, i, min(order, allowed[i]))
            predicted = _weights(prediction, sigmas[i], h[i], nodes)
            weights[prediction][i, : len(nodes) - 1] = predicted[1:]
            if prediction == "noise":
                follow[i] = 1 - keep[i]
            if corrector and i + 1 < steps:
                corrected = _weights(prediction, sigmas[i], h[i], [h[i], *nodes])
                corrections[prediction][i + 1, : len(nodes)] = corrected[1:] - predicted
        return Table(
            keep, follow, *(part[name] for part in (weights, corrections) for name in PREDICTIONS)
        )

    def init(self, x):
        """Return what comes before the first step, of no weight while there is none."""
        nothing = (jnp.zeros_like(x),) * MOST
        return nothing, nothing

    def step(self, denoise, x, interval, state, key):
        del key
        table, evaluated = interval.table, x
        guided = denoise(x, interval.start)
        newest = (source(guided), direction(x, guided, interval.start))

        def beyond(*weights):
            return sum(
                weight * (past - new)
                for row, pasts, new in zip(weights, state, newest, strict=True)
                for weight, past in zip(row, pasts, strict=True)
            )

        x = x + beyond(table.correct_data, table.correct_noise)
        # The step of order 1 and what exceeds it: exact at sigma' = 0, where only D remains.
        after = guided.denoised + table.keep * (x - guided.denoised)
        after = after + table.follow * (x - evaluated) + beyond(table.data, table.noise)
        state = tuple((new, *pasts)[:MOST] for new, pasts in zip(newest, state, strict=True))
        return after, guided, state


def _weights(
    prediction: str, sigma: float, h: float, nodes: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the weights of predictions at ``nodes`` in a step of length ``h`` from ``sigma``."""
    if prediction == "data":
        return integrals(h, nodes)
    # int_sigma^sigma' l_j(s) ds, whose decay runs the other way: the mirror image of data's.
    return -sigma * integrals(h, h - np.asarray(nodes))


@register("solver")
def per_step(choices: Iterable[Mapping | Sequence]) -> PerStep:
    """Return the solver that takes each step in the way chosen for it.

    A step of order q extrapolates its prediction as the polynomial in log sigma through the last
    q, exactly. With ``h = log(sigma/sigma')`` and l_j the Lagrange basis, u the distance from
    log sigma:
    data, ``x' = e^-h x + sum_j D_j int_0^h e^-(h-u) l_j(u) du``;
    noise, ``x' = x - sigma sum_j d_j int_0^h e^-u l_j(u) du``.
    A corrector adds the prediction at sigma' to the polynomial: x' becomes the step of order
    q + 1, without another evaluation. The first steps use as many predictions as there are, a
    step to sigma = 0 returns the prediction itself, and the last step is not corrected.

    Every list of so many choices runs in one compiled program. All ``("data", 2)`` is
    DPM-Solver++(2M) with Taylor's difference, all ``("data", q, True)`` UniPC without its B(h)
    (`sa_solver` without noise), all ``("noise", q)`` multistep `dpm_solver`, order 1 `euler`.

    Args:
        choices: one a step, each ``(prediction, order, corrector)`` or a dictionary of these;
            what is left out is ``"data"``, 2 and False. Orders are 1 to 3.

    Raises:
        ValueError: no choices, or one that is none of these; when sampling, another number of
            steps than of choices.

    Source: Liu et al., arXiv 2312.07243, the unified sampling framework.
    """
    chosen = [_checked(i, choice) for i, choice in enumerate(choices)]
    if not chosen:
        raise ValueError("samplers.per_step: give one choice a step, such as [('data', 2)] * 10")
    return PerStep(tuple(MENU.index(choice) for choice in chosen))


def _checked(step: int, given: Mapping | Sequence) -> Choice:
    try:
        choice = Choice(**given) if isinstance(given, Mapping) else Choice(*given)
    except TypeError as error:
        raise ValueError(
            f"samplers.per_step: choice {step} must be (prediction, order, corrector) or a "
            f"dictionary of these, got {given!r}"
        ) from error
    if (
        choice.prediction not in PREDICTIONS
        or isinstance(choice.order, bool)
        or choice.order not in range(1, MOST + 1)
        or not isinstance(choice.corrector, bool)
    ):
        raise ValueError(
            f"samplers.per_step: choice {step} needs a prediction of {' or '.join(PREDICTIONS)}, "
            f"an order from 1 to {MOST} and a corrector of True or False, got {given!r}"
        )
    return choice
