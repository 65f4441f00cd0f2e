"""Weights of particles, in logarithms, and schemes that draw particles anew by them.

Log-weights are ``[group, particle]`` and need not be normalised. A scheme draws as many particles
as there are, each ``n w`` times on average, n the count and w its normalised weight.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def effective(log_weights: Float[Array, "group particle"]) -> Float[Array, " group"]:
    """Return the effective number of particles, ``1 / sum_i w_i^2`` of normalised weights."""
    return 1 / jnp.sum(jax.nn.softmax(log_weights, axis=1) ** 2, axis=1)


def log_mean(log_weights: Float[Array, "group particle"]) -> Float[Array, " group"]:
    """Return the logarithm of the mean weight: what a group adds to its log evidence.

    The sum over resamplings estimates the normaliser without bias, for any number of particles; the
    logarithm of an estimate is too low on average.
    """
    return jax.nn.logsumexp(log_weights, axis=1) - jnp.log(log_weights.shape[1])


def worn(
    log_weights: Float[Array, "group particle"], below: float | Array
) -> Bool[Array, " group"]:
    """Return which groups to resample: those with a share of effective particles under ``below``.

    A group whose particles weigh the same has nothing to gain, whatever rounding makes of it.
    """
    uneven = log_weights.max(axis=1) > log_weights.min(axis=1)
    return uneven & (effective(log_weights) < below * log_weights.shape[1])


def _found(
    log_weights: Float[Array, " particle"], points: Float[Array, " draw"]
) -> Int[Array, " draw"]:
    """Return the particle on whose part of [0, 1] each point lies."""
    edges = jnp.cumsum(jax.nn.softmax(log_weights))
    # The last edge is 1 up to rounding.
    return jnp.minimum(jnp.searchsorted(edges, points, side="right"), len(edges) - 1)


def _multinomial(key, log_weights):
    count = len(log_weights)
    return jnp.sort(_found(log_weights, jax.random.uniform(key, (count,), log_weights.dtype)))


def _stratified(key, log_weights):
    count = len(log_weights)
    offsets = jax.random.uniform(key, (count,), log_weights.dtype)
    return _found(log_weights, (jnp.arange(count) + offsets) / count)


def _systematic(key, log_weights):
    count = len(log_weights)
    offset = jax.random.uniform(key, (), log_weights.dtype)
    return _found(log_weights, (jnp.arange(count) + offset) / count)


def _whole(log_weights):
    """Return how often each particle is drawn for certain, and what remains of ``n w``."""
    expected = len(log_weights) * jax.nn.softmax(log_weights)
    # Rounding must not take a whole draw from equal weights.
    slack = 4 * len(log_weights) * jnp.finfo(expected.dtype).eps
    whole = jnp.floor(expected + slack)
    return whole.astype(jnp.int32), jnp.clip(expected - whole, 0, 1)


def _residual(key, log_weights):
    count = len(log_weights)
    whole, rest = _whole(log_weights)
    certain = jnp.searchsorted(jnp.cumsum(whole), jnp.arange(count), side="right")
    points = jax.random.uniform(key, (count,), log_weights.dtype)
    drawn = _found(jnp.log(rest), points)
    return jnp.where(jnp.arange(count) < whole.sum(), certain, drawn)


def _ssp(key, log_weights):
    whole, rest = _whole(log_weights)
    uniforms = jax.random.uniform(key, (len(rest) - 1,), rest.dtype)

    def pair(carry, row):
        """Settle one of two particles' remainders, and carry the other on."""
        holder, held = carry
        number, other, uniform = row
        total = held + other
        spare = 2 - total
        # Either one takes all, or one is filled up to a draw; both keep their means.
        filled = total >= 1
        first = uniform * jnp.where(filled, spare, total) < jnp.where(filled, 1 - other, held)
        winner, loser = (
            jnp.where(first, holder, number),
            jnp.where(first, number, holder),
        )
        carry = jnp.where(filled, loser, winner), jnp.where(filled, total - 1, total)
        return carry, jnp.where(filled, winner, len(rest))

    rows = (jnp.arange(1, len(rest)), rest[1:], uniforms)
    (holder, held), winners = jax.lax.scan(pair, (jnp.zeros((), jnp.int32), rest[0]), rows)
    # What is held at the end is 0 or 1 up to rounding; whoever is out of bounds wins nothing.
    winners = jnp.append(winners, jnp.where(held > 0.5, holder, len(rest)))
    drawn = whole.at[winners].add(1, mode="drop")
    return jnp.repeat(jnp.arange(len(rest)), drawn, total_repeat_length=len(rest))


SCHEMES: dict[str, Callable[[Key[Array, ""], Array], Array]] = {
    "multinomial": _multinomial,
    "stratified": _stratified,
    "systematic": _systematic,
    "residual": _residual,
    "ssp": _ssp,
}


def drawn(
    scheme: str, keys: Key[Array, " group"], log_weights: Float[Array, "group particle"]
) -> Int[Array, "group particle"]:
    """Draw each group's particles anew by weight; of equal weights all but multinomial draw each.

    Args:
        scheme: ``multinomial`` (independent draws), ``stratified`` (one in each of n equal parts),
            ``systematic`` (a comb with one random offset), ``residual`` (the whole part of ``n w``
            for certain, the rest multinomial), or ``ssp`` (the rest by pairs that share a draw).
            Systematic and SSP draw a particle ``floor(n w)`` or ``ceil(n w)`` times.
        keys: one a group.
        log_weights: of each particle.

    Returns:
        Numbers within the group, not falling but for ``residual``.

    Source: systematic as in Skreta et al., arXiv 2503.02819; SSP (Srinivasan sampling process) as
    in Kim et al., arXiv 2501.05803.
    """
    return jax.vmap(SCHEMES[scheme])(keys, log_weights)


def resampled(
    scheme: str,
    keys: Key[Array, " group"],
    log_weights: Float[Array, "group particle"],
    which: Bool[Array, " group"],
) -> Int[Array, " batch"]:
    """Return each particle's ancestor in the batch: itself in groups that are not resampled."""
    count = log_weights.shape[1]
    own = jnp.arange(count)
    chosen = jnp.where(which[:, None], drawn(scheme, keys, log_weights), own)
    return (chosen + jnp.arange(len(chosen))[:, None] * count).reshape(-1)


def checked_scheme(owner: str, scheme: str) -> str:
    """Return the name of a scheme.

    Raises:
        ValueError: there is none of that name, in the name of ``samplers.owner``.
    """
    if scheme not in SCHEMES:
        raise ValueError(
            f"samplers.{owner}: scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}"
        )
    return scheme


def checked_share(owner: str, resample_below: float) -> float:
    """Return a share of the particles.

    Raises:
        ValueError: outside [0, 1], in the name of ``samplers.owner``.
    """
    if not 0 <= resample_below <= 1:
        raise ValueError(
            f"samplers.{owner}: resample_below is a share of the particles in [0, 1], got "
            f"{resample_below!r}"
        )
    return resample_below
