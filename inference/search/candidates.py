"""Searches for the noise to begin from: at random, or near the best so far (2501.09732)."""

import dataclasses
import math
from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array

from ...core.checks import require_choice
from ...core.constructors import name_of
from ...core.registry import register
from ...core.rewards import Reward
from ...samplers.checks import plain, whole
from .bound_sampler import Bound, repeated
from .found import (
    Point,
    Search,
    SearchPlan,
    candidate_keys,
    candidate_noise,
    chosen,
    ranks,
    whole_budget,
)
from .proposals import PROPOSALS

# The sine of the angle of a public implementation's `rotate`, whose cosine is 0.95.
RADIUS = 0.312


@dataclasses.dataclass(frozen=True)
class _Runs(Search):
    """Whole runs, some in one batch."""

    at_once: int

    @property
    def plan(self):
        """As many whole runs as the budget has."""
        each = self.sample.evaluations()
        batches = list(self._batches(self.budget // each))
        runs = batches[-1][-1] + 1
        # A reward that ranks is asked of the best so far again in every batch but the first.
        again = len(batches) - 1 if ranks(self.reward) else 0
        way = f"{runs} run{'s' * (runs != 1)} of {each} evaluations"
        return SearchPlan(name_of(self), self.budget, runs, runs * each, runs + again, way)

    def points(self, noise, condition, keys):
        """Yield the best after every batch of runs."""
        each, best, pivot = self.sample.evaluations(), None, noise
        for numbers in self._batches(self.budget // each):
            if best is not None and self._moves(numbers[0]):
                pivot = best.noise
            starts, own = self._starts(numbers, pivot, keys)
            x = self.sample(starts, repeated(condition, len(numbers)), own)
            best = chosen(self.reward, best, x, starts, condition, own, len(noise))
            yield Point(best, each * (numbers[-1] + 1))

    def _batches(self, runs: int) -> Iterator[range]:
        """Yield the numbers of the runs that one batch takes."""
        raise NotImplementedError

    def _moves(self, number: int) -> bool:
        """Return whether the pivot moves to the best before run ``number``."""
        raise NotImplementedError

    def _starts(self, numbers: range, pivot: Array, keys: Array) -> tuple[Array, Array]:
        """Return what runs begin from, and their keys; run 0 begins from the first pivot."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class BestOfN(_Runs):
    """Independent runs."""

    def _batches(self, runs):
        for first in range(0, runs, self.at_once):
            yield range(first, min(first + self.at_once, runs))

    def _moves(self, number):
        del number
        return False

    def _starts(self, numbers, pivot, keys):
        own = [candidate_keys(keys, number) for number in numbers]
        starts = [
            candidate_noise(key, pivot) if number else pivot
            for number, key in zip(numbers, own, strict=True)
        ]
        return jnp.concatenate(starts), jnp.concatenate(own)


@dataclasses.dataclass(frozen=True)
class ZeroOrder(_Runs):
    """Runs near a pivot, which is the best before their round."""

    candidates: int
    radius: float
    proposal: str

    def _batches(self, runs):
        yield range(1)
        for first in range(1, runs, self.candidates):
            last = min(first + self.candidates, runs)
            for begin in range(first, last, self.at_once):
                yield range(begin, min(begin + self.at_once, last))

    def _moves(self, number):
        return (number - 1) % self.candidates == 0

    def _starts(self, numbers, pivot, keys):
        propose = PROPOSALS[self.proposal]
        starts = [
            propose(pivot, candidate_noise(candidate_keys(keys, number), pivot), self.radius)
            if number
            else pivot
            for number in numbers
        ]
        # Solvers that draw are given the same draws: what is sought is noise to begin from.
        return jnp.concatenate(starts), repeated(keys, len(numbers))


@register("search", "2501.09732")
def best_of_n(sample: Bound, reward: Reward, budget: int, *, at_once: int = 1) -> BestOfN:
    """Return the search that samples again and again, and keeps the best.

    The first candidate is what the sampler makes of the noise and key it is given; further ones
    have noise and keys of their own, by number. The best of N has the density
    ``N F(r)^(N-1) p``, F the distribution function of rewards, which is as far from p as
    ``log N - (N - 1)/N`` nats.

    Args:
        sample: what `bound` made.
        reward: what is sought. One that ranks (`rewards.rank_mean`) compares the candidates of one
            batch and the best before it.
        budget: evaluations of networks a sample, of which as many whole runs are made as it has.
            A larger one goes on where a smaller one ends.
        at_once: candidates of a sample in one batch; memory grows with these and not with N.

    Raises:
        ValueError: a budget smaller than one run, or no whole numbers.

    Source: Ma et al., arXiv 2501.09732, section 3 (random search).
    """
    whole("best_of_n", at_once=at_once)
    budget = whole_budget("best_of_n", budget, sample.evaluations(), "one run")
    return BestOfN(sample, reward, budget, int(at_once))


@register("search", "2501.09732")
def zero_order(
    sample: Bound,
    reward: Reward,
    budget: int,
    *,
    candidates: int = 4,
    radius: float = RADIUS,
    proposal: str = "mix",
    at_once: int = 1,
) -> ZeroOrder:
    """Return the search around a pivot, which moves to the best of its neighbours in each round.

    The pivot stays among the candidates, so that the best never gets worse. The first pivot is the
    noise that the search is given, and every run has the key that it is given, so that the search
    is over noise alone.

    Args:
        sample, reward, at_once: as in `best_of_n`.
        budget: evaluations of networks a sample: one run, and whole runs of rounds, the last of
            which may be cut short. A larger one goes on where a smaller one ends.
        candidates: of a round.
        radius: how far they are from the pivot: for ``mix`` and ``rotate`` a share from 0 to 1,
            for ``shell`` a length.
        proposal: ``mix`` leaves unit noise unit noise, ``rotate`` also its norm as it is,
            ``shell`` does neither.

    Raises:
        ValueError: a budget smaller than one run, another proposal, or a radius that it has not.

    Source: Ma et al., arXiv 2501.09732, section 3 (zero-order search); the proposals are this
    package's, as the paper gives none.
    """
    whole("zero_order", candidates=candidates, at_once=at_once)
    plain("zero_order", radius=radius)
    require_choice("search.zero_order: proposal", proposal, PROPOSALS)
    highest = math.inf if proposal == "shell" else 1
    if not 0 <= radius <= highest:
        raise ValueError(
            f"search.zero_order: the radius of {proposal!r} is from 0 to {highest}, got {radius}"
        )
    budget = whole_budget("zero_order", budget, sample.evaluations(), "one run")
    return ZeroOrder(sample, reward, budget, int(at_once), int(candidates), float(radius), proposal)
