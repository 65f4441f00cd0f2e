"""What every search shares: its plan, the best so far, how it is scored, and its trace."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ...core.constructors import name_of
from ...core.pytrees import replaced
from ...core.random import CANDIDATES, fold_each, keys_per_sample, normal_like
from ...core.rewards import Reward, values_of
from ...samplers.arguments import opaque, separated, state_of
from ...samplers.checks import Keys
from ...samplers.programs import program
from .bound_sampler import Bound, repeated

# Of a candidate's key, beside the streams that samplers fold.
_NOISE, _REWARD = CANDIDATES, CANDIDATES + 1


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """What a search does for one sample at most, known before it begins.

    Attributes:
        method: its name.
        budget: evaluations that it may make.
        runs: finished samples, of which the best is kept.
        evaluations: of networks, see `bound_sampler.evaluations_in`; never more than the budget.
        rewards: calls of the reward.
        way: how these come about, in words.
    """

    method: str
    budget: int
    runs: int
    evaluations: int
    rewards: int
    way: str

    def __str__(self) -> str:
        return (
            f"{self.method}: {self.way}, {self.evaluations} network evaluations of a budget of "
            f"{self.budget}, {self.rewards} rewards, a sample"
        )


class Best(NamedTuple):
    """The best that was found for each sample.

    Attributes:
        x: finished samples, or predictions of them.
        reward: theirs; minus infinity where a reward was NaN.
        noise: that they began from.
    """

    x: Float[Array, " batch *shape"]
    reward: Float[Array, " batch"]
    noise: Float[Array, " batch *shape"]


class Trace(NamedTuple):
    """Reward against evaluations.

    Attributes:
        evaluations: that had been made for each sample, by point of the search.
        reward: of the best until then.
    """

    evaluations: Int[np.ndarray, "point batch"]
    reward: Float[np.ndarray, "point batch"]


class Found(NamedTuple):
    """What a search has found.

    Attributes:
        x: the best sample of each search.
        reward: theirs.
        noise: that they began from.
        trace: how it went.
    """

    x: Float[Array, " batch *shape"]
    reward: Float[Array, " batch"]
    noise: Float[Array, " batch *shape"]
    trace: Trace


class Point(NamedTuple):
    """A search so far, where it may be stopped."""

    best: Best
    evaluations: int | Int[np.ndarray, " batch"]


@dataclasses.dataclass(frozen=True)
class Search:
    """Base of searches: called with noise, it yields points and ends at the budget.

    Attributes:
        sample: what is run.
        reward: what is sought, by samples, condition and key.
        budget: evaluations of networks a sample.
    """

    sample: Bound
    reward: Reward
    budget: int

    @property
    def plan(self) -> SearchPlan:
        """What it does at most."""
        raise NotImplementedError

    def points(
        self, noise: Float[Array, " batch *shape"], condition: Any, keys: Key[Array, " batch"]
    ) -> Iterator[Point]:
        """Yield the search so far, whenever it may be stopped."""
        raise NotImplementedError

    def __call__(
        self,
        noise: Float[Array | np.ndarray, " batch *shape"],
        condition: Any,
        key: Keys,
        *,
        until: Callable[[Found], Any] | None = None,
    ) -> Found:
        """Search for the best sample of each condition.

        Args:
            noise, condition, key: as `samplers.sample` takes them; the first candidate is what it
                makes of them.
            until: is told what was found whenever the search may be stopped, and stops it by
                returning something true.

        Raises:
            ValueError: what `samplers.sample` refuses.
        """
        noise = state_of("sample", "noise", noise)
        keys = keys_per_sample(f"search.{name_of(self)}", key, noise.shape[0])
        if isinstance(condition, (list, tuple)):
            condition = np.asarray(condition, np.int32)
        costs: list[np.ndarray] = []
        rewards: list[np.ndarray] = []
        for point in self.points(noise, condition, keys):
            costs.append(np.broadcast_to(np.asarray(point.evaluations), noise.shape[:1]))
            rewards.append(np.asarray(jax.device_get(point.best.reward)))
            found = Found(*point.best, Trace(np.stack(costs), np.stack(rewards)))
            if until is not None and until(found):
                break
        return found


def candidate_keys(keys: Key[Array, " batch"], number: int) -> Key[Array, " batch"]:
    """Return the keys of candidate ``number`` of each sample; the first has the sample's own."""
    return fold_each(fold_each(keys, CANDIDATES), number) if number else keys


def candidate_noise(
    keys: Key[Array, " batch"], like: Float[Array, " batch *shape"]
) -> Float[Array, " batch *shape"]:
    """Return fresh unit noise of candidates."""
    return normal_like(fold_each(keys, _NOISE), like)


@program
def _values(fixed, numbers, x, condition, keys):
    reward = fixed.filled(numbers)
    found = values_of(reward, x, condition, fold_each(keys, _REWARD))
    return jnp.where(jnp.isnan(found), -jnp.inf, found)


def rewards_of(
    reward: Reward, x: Float[Array, " batch *shape"], condition: Any, keys: Key[Array, " batch"]
) -> Float[Array, " batch"]:
    """Return the rewards of samples; minus infinity for NaN, so that it is never chosen."""
    fixed, numbers = separated(reward)
    return _values(fixed, numbers, x, condition, keys, opaque=opaque(reward))


def ranks(reward: Reward) -> bool:
    """Return whether a reward is known within a group alone, which is then its field ``group``."""
    return hasattr(reward, "group")


def require_alone(owner: str, reward: Reward) -> None:
    """Refuse rewards that are known within a group alone.

    Raises:
        ValueError: in the name of ``owner``.
    """
    if ranks(reward):
        raise ValueError(
            f"search.{owner}: {name_of(reward)} ranks the candidates of a group, and this search "
            f"compares samples of different moments: give rewards.weighted, or take best_of_n or "
            f"zero_order"
        )


def chosen(
    reward: Reward,
    best: Best | None,
    x: Float[Array, " many *shape"],
    noise: Float[Array, " many *shape"],
    condition: Any,
    keys: Key[Array, " many"],
    batch: int,
) -> Best:
    """Return the best of what there was and of candidates, batch after batch of them.

    Args:
        reward: asked of the candidates; one that ranks is asked of what there was, too.
        best: what there was; None at first.
        x, noise, keys: the candidates, what they began from, and their keys.
        condition: of one batch.
        batch: samples that are searched for.
    """
    if ranks(reward):
        if best is not None:
            x, noise = jnp.concatenate([best.x, x]), jnp.concatenate([best.noise, noise])
            keys = jnp.concatenate([keys[:batch], keys])
        values = _ranked(reward, x, condition, keys, batch)
        best = None
    else:
        values = rewards_of(reward, x, repeated(condition, len(x) // batch), keys)
    found = jax.tree.map(lambda one: one.reshape(-1, batch, *one.shape[1:]), Best(x, values, noise))
    if best is None:
        best, found = (jax.tree.map(lambda one, at=at: one[at], found) for at in (0, np.s_[1:]))
    return better(best, found)


def _ranked(reward, x, condition, keys, batch) -> Float[Array, " many"]:
    """Return rewards that are known within a group alone: of all candidates of one sample."""
    count = len(x) // batch
    # A group's samples lie side by side.
    order = np.arange(len(x)).reshape(count, batch).T.reshape(-1)
    asked = jax.tree.map(lambda one: one[order], repeated(condition, count))
    values = rewards_of(replaced(reward, group=count), x[order], asked, keys[order])
    return values[np.argsort(order)]


@jax.jit
def better(best: Best, candidates: Best) -> Best:
    """Return the best of what there was and of candidates ``[candidate, batch, ...]``.

    Of equals the earlier one stays.
    """
    every = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), best, candidates)
    first = jnp.argmax(every.reward, axis=0)
    return jax.tree.map(lambda values: values[first, jnp.arange(len(first))], every)


def whole_budget(owner: str, budget: int, least: int, what: str) -> int:
    """Return a budget that is enough for something.

    Raises:
        ValueError: no whole number, or fewer evaluations than that takes.
    """
    if isinstance(budget, bool) or int(budget) != budget:
        raise ValueError(f"search.{owner}: budget must be a whole number, got {budget!r}")
    if budget < least:
        raise ValueError(
            f"search.{owner}: {what} takes {least} network evaluations, and the budget is "
            f"{budget}: give {least} or more"
        )
    return int(budget)
