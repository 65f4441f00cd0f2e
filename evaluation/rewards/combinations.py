"""Several rewards as one: by weights, or by ranks where their units do not compare."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.pytrees import pytree, static
from ...core.random import folded
from ...core.registry import register
from ...core.rewards import Reward, values_of


@pytree
class Weighted:
    """``sum_i weights_i rewards_i``.

    Attributes:
        rewards: several.
        weights: one each.
    """

    rewards: tuple[Reward, ...]
    weights: tuple[float | Array, ...]

    @property
    def differentiable(self) -> bool:
        """Whether all of them have gradients."""
        return all(one.differentiable for one in self.rewards)

    def __call__(self, x0, condition, key):
        values = _values(self.rewards, x0, condition, key)
        return sum(weight * one for weight, one in zip(self.weights, values, strict=True))


@pytree
class RankMean:
    """The mean over rewards of a sample's rank in its group.

    Attributes:
        rewards: several.
        group: samples that are compared with each other, consecutive; None for the whole batch.
    """

    rewards: tuple[Reward, ...]
    group: int | None = static(default=None)

    differentiable = False

    def __call__(self, x0, condition, key):
        size = self.group or len(x0)
        if len(x0) % size:
            raise ValueError(
                f"rewards.rank_mean: {len(x0)} samples are no whole number of groups of {size}: "
                f"choose a batch that group divides"
            )
        ranks = [_ranks(one.reshape(-1, size)) for one in _values(self.rewards, x0, condition, key)]
        return jnp.mean(jnp.stack(ranks), axis=0).reshape(-1).astype(x0.dtype)


def _ranks(values: Float[Array, "group sample"]) -> Float[Array, "group sample"]:
    """Return how many of its group each is above, equals counting half."""
    one, other = values[:, :, None], values[:, None, :]
    return jnp.sum(one > other, axis=2) + (jnp.sum(one == other, axis=2) - 1) / 2


def _values(rewards, x0, condition, key):
    return [
        values_of(one, x0, condition, folded(key, number)) for number, one in enumerate(rewards)
    ]


def _several(owner: str, rewards: Sequence[Reward]) -> tuple[Reward, ...]:
    if not rewards:
        raise ValueError(f"rewards.{owner}: rewards is empty: give one or more")
    return tuple(rewards)


@register("reward")
def weighted(rewards: Sequence[Reward], weights: Sequence[float]) -> Weighted:
    """Return the weighted sum of rewards.

    Args:
        rewards: one or more; each draws, where it draws, from a stream of its own.
        weights: one each.

    Raises:
        ValueError: no rewards, or another number of weights.
    """
    rewards = _several("weighted", rewards)
    if len(weights) != len(rewards):
        raise ValueError(
            f"rewards.weighted: {len(rewards)} rewards and {len(weights)} weights: give one each"
        )
    return Weighted(rewards, tuple(weights))


@register("reward", "2501.09732")
def rank_mean(rewards: Sequence[Reward], group: int | None = None) -> RankMean:
    """Return the mean of a sample's ranks in its group: an ensemble whose units do not compare.

    The best of K samples has rank K - 1 and the worst 0; equals share the mean of theirs. Samples
    of different groups do not compare. It has no gradient.

    Args:
        rewards: one or more.
        group: samples of a group, consecutive in the batch; None takes the whole batch. Searches
            set it themselves.

    Raises:
        ValueError: no rewards, or a group of none; when used, a batch that it does not divide.

    Source: Ma et al., arXiv 2501.09732 (verifier ensemble).
    """
    if group is not None and group < 1:
        raise ValueError(f"rewards.rank_mean: group must be a positive integer, got {group}")
    return RankMean(_several("rank_mean", rewards), group)
