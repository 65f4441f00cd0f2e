"""Networks by noise level: trajectory stitching (Pan et al., arXiv 2402.14167), and experts."""

import dataclasses
import math
from collections.abc import Sequence
from numbers import Real

import numpy as np

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import CLASSIFIER, MAIN, Around, Branch, Evaluate, Rule
from .interval import ends
from .wrapper import Wrapper


class Replacing(Around):
    """An ``evaluate`` that asks one network for what another was asked for.

    Attributes:
        condition: as in the ``evaluate`` inside.
    """

    def __init__(self, evaluate: Evaluate, network: str, replaces: str):
        super().__init__(evaluate)
        self._network, self._replaces = network, replaces

    def __call__(self, branches, x=None, sigma=None):
        return self._evaluate(tuple(map(self._replaced, branches)), x, sigma)

    def note(self, counts):
        """Pass on what was counted, in the name of the network that answers."""
        replaced = {
            self._network + name.removeprefix(self._replaces)
            if name.partition("+")[0] == self._replaces
            else name: count
            for name, count in counts.items()
        }
        super().note(replaced)

    def _replaced(self, branch: Branch) -> Branch:
        if branch.network != self._replaces:
            return branch
        derived = dataclasses.replace(branch, name="").name
        # A name of its own stays; one that was derived is derived from the new network.
        name = "" if branch.name == derived else branch.name
        return dataclasses.replace(branch, network=self._network, name=name)


@pytree
class Replaced(Wrapper):
    """A rule whose branches of one network are answered by another."""

    rule: Rule
    network: str = static()
    replaces: str = static()

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        evaluate = Replacing(evaluate, self.network, self.replaces)
        return self.rule.apply(evaluate, x, sigma, state, key)


@pytree
class Stitched:
    """`Replaced` inside ``(low, high]``, the rule itself outside."""

    rule: Rule
    network: str = static()
    low: float = static()
    high: float = static()
    replaces: str = static()

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        raise TypeError(
            "guidance.stitched decides per step which network holds: call "
            "rule.at(sigma).apply(...), as guidance.combine and samplers.sample do"
        )

    def holds_at(self, sigma: float) -> bool:
        """Return whether the other network holds at a noise level."""
        return bool(self.low < sigma <= self.high)

    def at(self, sigma):
        rule = self.rule.at(sigma)
        if self.holds_at(sigma):
            return Replaced(rule, self.network, self.replaces)
        return rule


@register("rule", "2402.14167")
def stitched(
    rule: Rule,
    network: str = "small",
    low: float = 0.0,
    high: float = math.inf,
    replaces: str = MAIN,
) -> Stitched:
    r"""Answer for one network by another where ``low < sigma <= high``.

    A small network at high noise levels: ``stitched(cfg(2.0), "small", low=4.0)``, with ``low``
    from `stitch_point` where a share of the steps is meant. Experts by noise level nest:
    ``stitched(stitched(rule, "high", low=5.0), "middle", low=0.5, high=5.0)``. Conditions, modes,
    states and everything else of the rule stay as they are; the rule asks the other network all
    the questions it would have asked the first. Goes around other wrappers: what an interval
    inside it leaves unguided is stitched as well.

    The ends are structure, decided once per step from the step's starting sigma, so that outside
    them the other network is never evaluated.

    Equation:
        D = D^\text{small} \text{ for } \sigma > \sigma_\text{low}, \quad D^\text{main} \text{
        below}

    When to use: To save time where a smaller network does as well: it draws the layout, the
    large one the details. Nested, it gives each range of noise levels an expert of its own.

    Args:
        rule: any rule.
        network: the name of the network that answers, as the sampler is given it.
        low, high: noise levels in sigma; ``low`` itself is outside, ``high`` inside.
        replaces: the name of the network that is asked, ``main``, ``guide`` or another.

    Raises:
        ValueError: ends that are not numbers, negative, or leave nothing between them; names that
            are empty, equal, or a classifier's.

    Source: Pan et al., arXiv 2402.14167.
    """
    for name in (network, replaces):
        if not isinstance(name, str) or not name or name == CLASSIFIER:
            raise ValueError(
                f"guidance.stitched: network and replaces must name denoisers, got {name!r}"
            )
    if network == replaces:
        raise ValueError(
            f"guidance.stitched: the network {network!r} cannot replace itself: name another"
        )
    low, high = ends("stitched", low, high, "leave the wrapper out to stitch nothing")
    return Stitched(rule, network, low, high, replaces)


def stitch_point(sigmas: Sequence[float] | np.ndarray, ratio: float) -> float:
    """Return the ``low`` for which `stitched` covers the first share of a schedule's steps.

    Of n steps the first ``floor(ratio * n)``: those at times ``t/T >= 1 - ratio`` of timesteps
    T - 1, ..., 0.

    Args:
        sigmas: the schedule, with or without a final 0.
        ratio: from 0 (no step) to 1 (all of them).

    Raises:
        ValueError: a ratio outside [0, 1], or no schedule.

    Source: Pan et al., arXiv 2402.14167.
    """
    if not isinstance(ratio, Real) or not 0 <= ratio <= 1:
        raise ValueError(f"guidance.stitch_point: need 0 <= ratio <= 1, got {ratio!r}")
    sigmas = np.asarray(sigmas, np.float64)
    if sigmas.ndim != 1 or sigmas.size < 2 or (np.diff(sigmas) >= 0).any():
        raise ValueError(
            "guidance.stitch_point: sigmas must be two or more decreasing noise levels"
        )
    steps = sigmas.size - 1
    # Rounding must not lose a step: 0.29 * 100 is below 29.
    return float(sigmas[math.floor(ratio * steps * (1 + 1e-12))])
