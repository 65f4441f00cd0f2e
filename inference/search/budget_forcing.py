"""Rollover budget forcing: steps are tried again until one looks better (2503.19385)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ...core.constructors import name_of
from ...core.registry import register
from ...core.rewards import Reward
from ...samplers.checks import whole
from .bound_sampler import Bound
from .found import (
    Best,
    Point,
    Search,
    SearchPlan,
    candidate_keys,
    candidate_noise,
    require_alone,
    rewards_of,
    whole_budget,
)
from .stepping import Walk, costs_of, selected

# As many first predictions as the published code compares.
INITIAL = 25


@dataclasses.dataclass(frozen=True)
class Rollover(Search):
    """One trajectory, with as many tries of each step as the budget has.

    Attributes:
        initial: noises whose predictions are compared before the first step.
        costs: evaluations of a prediction, by level.
        quota: tries of each step, before any are left over.
    """

    initial: int
    costs: tuple[int, ...]
    quota: int

    @property
    def plan(self):
        """The whole budget, but for what is no whole prediction."""
        first, rest = self.initial * self.costs[0], self.costs[1:]
        spent, tries = first, self.initial
        for number, cost in enumerate(rest):
            final = number == len(rest) - 1
            here = (self.budget - spent) // cost if final else self.quota
            spent, tries = spent + here * cost, tries + here
        return SearchPlan(
            name_of(self),
            self.budget,
            1,
            spent,
            tries + 1,
            f"1 run from the best of {self.initial}, {self.quota} tries of a step",
        )

    def points(self, noise, condition, keys):
        """Yield the prediction after every step, and the sample at the end."""
        walk = Walk(self.sample, noise, condition, keys)
        place, start, target = self._begin(walk, noise, condition, keys)
        used = np.full(len(noise), self.initial * self.costs[0])
        left = np.zeros(len(noise), int)
        yield Point(Best(place.guided.denoised, target, start), used)
        for number, cost in enumerate(self.costs[1:]):
            final = number == len(self.costs) - 2
            allowed = self.budget - used if final else self.quota * cost + left
            place, value, tries = self._tried(
                walk, number, place, (condition, keys), (target, allowed // cost)
            )
            used, left = used + tries * cost, allowed - tries * cost
            target = jnp.maximum(target, value)
            yield Point(Best(place.guided.denoised, value, start), used)
        x = walk.last(place, keys)
        yield Point(Best(x, rewards_of(self.reward, x, condition, keys), start), used)

    def _begin(self, walk, noise, condition, keys):
        """Return the best of the first predictions, the noise behind it and its reward."""
        for number in range(self.initial):
            own = candidate_keys(keys, number)
            tried = candidate_noise(own, noise) if number else noise
            there = walk.begin(tried, own)
            reward = rewards_of(self.reward, there.guided.denoised, condition, own)
            if not number:
                place, start, target = there, tried, reward
                continue
            place, start, target = selected(
                reward > target, (there, tried, reward), (place, start, target)
            )
        return place, start, target

    def _tried(self, walk, number, place, given, bounds):
        """Try a step until its prediction is better than the best so far, or the tries are used up.

        Args:
            walk: the sampler's.
            number: of the step.
            place: where it begins.
            given: condition and keys.
            bounds: the reward to exceed, and how many tries there are, for each sample.

        Returns:
            The place of the first that is better, else of the best; its reward; and how many tries
            that took.
        """
        condition, keys = given
        target, allowed = bounds
        tries, active = np.zeros(len(allowed), int), np.ones(len(allowed), bool)
        for again in range(int(allowed.max())):
            active = active & (again < allowed)
            if not active.any():
                break
            own = candidate_keys(keys, again)
            there = walk.step(number, place, own)
            reward = rewards_of(self.reward, there.guided.denoised, condition, own)
            if not again:
                best, value = there, reward
            else:
                better = jnp.asarray(active) & (reward > value)
                best, value = selected(better, (there, reward), (best, value))
            tries += active
            active = active & ~np.asarray(jax.device_get(reward > target))
        return best, value, tries


@register("search", "2503.19385")
def rollover(sample: Bound, reward: Reward, budget: int, *, initial: int = INITIAL) -> Rollover:
    """Return the search that tries each step until its prediction has a higher reward than before.

    It begins from the best of ``initial`` noises by their predictions. The tries of a step are the
    budget's equal share; the first whose prediction exceeds the best reward so far is taken at
    once, and the tries that it leaves roll over to the next step. Where none does, the best of
    them is taken. The last step that the network looks at has all that is left; the one after
    it, which it does not look at, is taken once. With one noise and one try a step it is plain
    sampling, up to the rounding of other programs.

    The solver draws: `ancestral`, or `euler_maruyama`, which on the path "vp" and its time is the
    paper's choice. One that does not tries the same step again and again.

    What it finds is the sample at the end, also where an earlier prediction had a higher reward.
    A larger budget is another search: each step has more tries.

    Args:
        sample: what `bound` made, of a solver with one prediction a step and without a history.
        reward: what is sought, of predictions and of samples; one that compares with any other.
        budget: evaluations of networks a sample. Samples of one batch wait for each other.
        initial: noises at first; fewer where the budget has not one evaluation a step beside.

    Raises:
        ValueError: a budget smaller than one run, another solver, or a reward that ranks.

    Source: Kim et al., arXiv 2503.19385, section 5 and algorithm 1 (rollover budget forcing).
    """
    whole("rollover", initial=initial)
    require_alone("rollover", reward)
    sample.require_predictions("rollover")
    costs = costs_of("rollover", sample)
    budget = whole_budget("rollover", budget, sum(costs), "one run")
    rest = sum(costs[1:])
    initial = int(min(initial, (budget - rest) // costs[0]))
    quota = (budget - initial * costs[0]) // rest if rest else 0
    return Rollover(sample, reward, budget, initial, tuple(costs), quota)
