"""A search over paths: samples are noised again and again, and the best go on (2501.09732)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...core.constructors import name_of
from ...core.noise_levels import flow_time
from ...core.random import CANDIDATES, fold_each
from ...core.registry import register
from ...core.rewards import Reward
from ...samplers.checks import plain, whole
from .bound_sampler import Bound
from .found import (
    Best,
    Point,
    Search,
    SearchPlan,
    candidate_keys,
    candidate_noise,
    chosen,
    require_alone,
    rewards_of,
    whole_budget,
)

# Of a sample's key: what is drawn behind the first level where paths branch.
_FINISH, _LEGS = CANDIDATES + 2, CANDIDATES + 3


class Leg(NamedTuple):
    """A way up by noise and down by the sampler, by numbers of levels: ``at -> up -> down``."""

    at: int
    up: int
    down: int


@dataclasses.dataclass(frozen=True)
class Paths(Search):
    """Passes: each takes some paths to a low level, and from there leg after leg to the end."""

    paths: int
    renoisings: int
    start: float
    forward: float
    backward: float

    def legs(self) -> list[Leg]:
        """Return the legs on the schedule's own levels, the nearest to those that are named."""
        times = flow_time(self.sample.sigmas)
        last = len(times) - 1

        def nearest(time):
            return int(np.argmin(np.abs(times - time)))

        at = min(max(nearest(self.start), 1), last - 1)
        legs = []
        while at < last:
            up = min(nearest(times[at] + self.forward), at)
            down = last if times[up] <= self.backward else nearest(times[up] - self.backward)
            legs.append(Leg(at, up, max(down, at + 1)))
            at = legs[-1].down
        return legs

    def _costs(self) -> tuple[int, list[int]]:
        """Return the evaluations of the paths' beginning and plain end, and of each leg."""
        legs, last = self.legs(), len(self.sample.sigmas) - 1
        pieces = [(0, legs[0].at), (legs[0].at, last)]
        begin = sum(self.sample.piece(*one).evaluations() for one in pieces)
        each = [
            self.sample.piece(one.up, one.down).evaluations()
            + (self.sample.prediction(one.down).evaluations() if one.down < last else 0)
            for one in legs
        ]
        tries = self.paths * self.renoisings
        return self.paths * begin, [tries * one for one in each]

    @property
    def plan(self):
        """As many whole passes as the budget has."""
        begin, legs = self._costs()
        each = begin + sum(legs)
        passes = self.budget // each
        tries = self.paths * self.renoisings
        runs = passes * (self.paths + tries)
        return SearchPlan(
            name_of(self),
            self.budget,
            runs,
            passes * each,
            passes * (self.paths + tries * len(legs)),
            f"{passes} pass{'es' * (passes != 1)} of {len(legs)} legs to {runs} samples",
        )

    def points(self, noise, condition, keys):
        """Yield the best finished sample after every leg."""
        begin, costs = self._costs()
        legs, last = self.legs(), len(self.sample.sigmas) - 1
        best, spent = None, 0
        for turn in range(self.budget // (begin + sum(costs))):
            going = []
            for number in range(turn * self.paths, (turn + 1) * self.paths):
                own = candidate_keys(keys, number)
                start = candidate_noise(own, noise) if number else noise
                x = self.sample.piece(0, legs[0].at)(start, condition, own)
                going.append(Best(x, jnp.zeros(len(x), x.dtype), start))
                own = fold_each(own, _FINISH)
                end = self.sample.piece(legs[0].at, last).resumed(x, condition, own)
                best = chosen(self.reward, best, end, start, condition, own, len(noise))
            spent += begin
            yield Point(best, spent)
            for number, (leg, cost) in enumerate(zip(legs, costs, strict=True)):
                tries = self._tries(going, leg, condition, keys, turn * len(legs) + number)
                if leg.down < last:
                    going = self._survivors(tries)
                else:
                    for one in tries:
                        own = fold_each(keys, _FINISH)
                        best = chosen(
                            self.reward, best, one.x, one.noise, condition, own, len(noise)
                        )
                spent += cost
                yield Point(best, spent)

    def _tries(self, going, leg, condition, keys, number):
        """Yield what becomes of every path, each noised several times, with its reward."""
        sigmas, end = self.sample.sigmas, len(self.sample.sigmas) - 1
        added = math.sqrt(max(sigmas[leg.up] ** 2 - sigmas[leg.at] ** 2, 0.0))
        keys = fold_each(fold_each(keys, _LEGS), number)
        for place, path in enumerate(going):
            for again in range(self.renoisings):
                own = candidate_keys(keys, place * self.renoisings + again)
                x = path.x + added * candidate_noise(own, path.x)
                x = self.sample.piece(leg.up, leg.down).resumed(x, condition, own)
                if leg.down == end:
                    yield path._replace(x=x)
                    continue
                denoised = self.sample.prediction(leg.down).resumed(x, condition, own)
                yield Best(x, rewards_of(self.reward, denoised, condition, own), path.noise)

    def _survivors(self, tries) -> list[Best]:
        """Return the best of what is tried, as many as there are paths."""
        kept: list[Best] = []
        for one in tries:
            if len(kept) < self.paths:
                kept.append(one)
            else:
                kept = _in_place_of_the_worst(kept, one)
        return kept


@jax.jit
def _in_place_of_the_worst(kept: list[Best], one: Best) -> list[Best]:
    rewards = jnp.stack([other.reward for other in kept])
    worst = jnp.argmin(rewards, axis=0)
    higher = one.reward > rewards.min(axis=0)
    return [
        jax.tree.map(
            lambda new, old, at=at: jnp.where(
                (higher & (worst == at)).reshape((-1,) + (1,) * (new.ndim - 1)), new, old
            ),
            one,
            other,
        )
        for at, other in enumerate(kept)
    ]


@register("search", "2501.09732")
def paths(
    sample: Bound,
    reward: Reward,
    budget: int,
    *,
    paths: int = 2,
    renoisings: int = 2,
    start: float = 0.11,
    forward: float = 0.78,
    backward: float = 0.81,
) -> Paths:
    """Return the search over paths: noised again, sampled down again, and the best of them go on.

    A pass takes ``paths`` noises down to the time ``start``. From there every path is noised
    ``renoisings`` times, ``forward`` in time, sampled ``backward`` in time, and the ``paths`` of
    all whose predictions have the highest rewards go on, until they are at the end. Times are
    those of a flow, ``sigma/(1 + sigma)``, and stand for the nearest level of the schedule.

    Each pass also takes its paths to the end without noise, the first of them from the noise that
    the search is given: that is plain sampling (up to rounding, of a solver that does not draw and
    keeps no history), and from then on the search can be stopped with a finished sample.

    Args:
        sample: what `bound` made. Multistep solvers begin every leg without history.
        reward: what is sought, of predictions and of samples; one that compares with any other.
        budget: evaluations of networks a sample, of which as many whole passes are made as it has;
            a larger one goes on where a smaller one ends.
        paths: that go on.
        renoisings: of each.
        start, forward, backward: times.

    Raises:
        ValueError: a budget smaller than one pass, times out of range, a reward that ranks, or a
            schedule of one step.

    Source: Ma et al., arXiv 2501.09732, section 3 (search over paths), with its constants.
    """
    whole("paths", paths=paths, renoisings=renoisings)
    plain("paths", start=start, forward=forward, backward=backward)
    require_alone("paths", reward)
    sample.require_predictions("paths")
    if not (0 < start < 1 and 0 <= forward < 1 and backward > 0):
        raise ValueError(
            f"search.paths: start and forward are times from 0 to 1 and backward is above 0, got "
            f"{start}, {forward} and {backward}"
        )
    if len(sample.sigmas) < 3:
        raise ValueError(
            "search.paths: a schedule of one step has no level where paths could branch: give one "
            "of two steps or more"
        )
    made = Paths(sample, reward, 0, int(paths), int(renoisings), start, forward, backward)
    begin, legs = made._costs()
    least = whole_budget("paths", budget, begin + sum(legs), "one pass")
    return dataclasses.replace(made, budget=least)
