"""What particle methods move by, and what they keep of each particle."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...core.random import fold_each
from ..solvers.solver import Common, Kernel, Solver
from .groups import check_groups
from .weights import effective, log_mean, resampled, worn

# Streams of a step's key, beside the kernel's own draw from the key itself: the scheme's uniform
# numbers, what rewards draw, and choices among candidates.
RESAMPLING, REWARDING, CHOOSING = 1, 2, 3


class Particles(NamedTuple):
    """What belongs to each particle.

    Attributes:
        log_weight: since its group was last resampled.
        log_evidence: of its group, up to then.
        spent: the sum of all its log-potentials.
        statistic: what a potential remembers of the values on the particle's path.
        ancestor: whom in the first batch it descends from.
    """

    log_weight: Float[Array, " batch"]
    log_evidence: Float[Array, " batch"]
    spent: Float[Array, " batch"]
    statistic: Float[Array, " batch"]
    ancestor: Int[Array, " batch"]


class Grouped(Common):
    """Base of solvers that weigh the particles of a group, and draw them anew by weight.

    Attributes:
        kernel: moves particles.
        resample_below: share of effective particles below which a group is resampled.
        particles: in a group.
        scheme: of resampling.
        owner: in whose name messages are.
    """

    order: ClassVar[int] = 1
    kernel: Kernel
    resample_below: float
    particles: int
    scheme: str
    owner: str

    def check(self, batch, condition):
        """Refuse groups that are not whole, or whose particles have different conditions."""
        check_groups(self.owner, self.particles, batch, condition)

    def init(self, x):
        """Return `Particles` that weigh the same."""
        zeros = jnp.zeros(x.shape[0], x.dtype)
        return Particles(zeros, zeros, zeros, zeros, jnp.arange(x.shape[0]))

    def weighed(self, denoise, carry, state, guided, growth, key, last=False):
        """Let weights grow, and resample the groups that are worn.

        Args:
            denoise: of the step, whose rule is resampled with the particles.
            carry: pytree of arrays ``[batch, ...]`` that are resampled, too.
            state: `Particles`.
            guided: the step's prediction; is told of weights before the resampling.
            growth: of each particle's log-weight.
            key: of the step.
            last: whether no step follows, so that weights must be spent.

        Returns:
            The carry and the state after it, and guided.
        """
        grouped = (state.log_weight + growth).reshape(-1, self.particles)
        which = worn(grouped, np.inf if last else self.resample_below)
        first = fold_each(key[:: self.particles], RESAMPLING)
        chosen = resampled(self.scheme, first, grouped, which)

        def each(group):
            return jnp.repeat(group, self.particles)

        evidence = state.log_evidence + each(log_mean(grouped))
        after = each(which)
        state = state._replace(
            log_weight=jnp.where(after, 0, grouped.reshape(-1)),
            log_evidence=jnp.where(after, evidence, state.log_evidence),
        )
        carry, state = denoise.reindex((carry, state), chosen)
        info = {
            "log_weight": grouped.reshape(-1),
            "effective": each(effective(grouped)),
            "log_evidence": evidence,
            "distinct": each(_distinct(state.ancestor.reshape(grouped.shape))).astype(growth.dtype),
        }
        return carry, state, guided._replace(info=guided.info | info)


def _distinct(ancestors: Int[Array, "group particle"]) -> Int[Array, " group"]:
    ordered = jnp.sort(ancestors, axis=1)
    return 1 + jnp.sum(ordered[:, 1:] != ordered[:, :-1], axis=1)


def checked_kernel(owner: str, kernel: Solver) -> Kernel:
    """Return a solver that particles can be moved by.

    Raises:
        ValueError: a solver of another kind, or one that adds no noise, in the name of
            ``samplers.owner``.
    """
    if not isinstance(kernel, Kernel):
        raise ValueError(
            f"samplers.{owner}: particles are moved by a solver that evaluates once a step and "
            f"then adds noise, ancestral() or euler_maruyama(), got {kernel!r}"
        )
    if not kernel.random:
        raise ValueError(
            f"samplers.{owner}: {kernel!r} adds no noise, and copies of a particle would stay the "
            f"same for ever: take ancestral() or euler_maruyama() with noise"
        )
    return kernel


def require_clean_end(owner: str, sigmas: np.ndarray) -> None:
    """Refuse schedules that do not end in 0.

    Raises:
        ValueError: in the name of ``samplers.owner``.
    """
    if sigmas[-1] != 0:
        raise ValueError(
            f"samplers.{owner}: rewards are of clean samples, and the schedule ends at sigma "
            f"{sigmas[-1]:g}: let it end in 0"
        )


def is_last(step: int, sigmas: np.ndarray) -> bool:
    """Return whether a step ends the schedule."""
    return step == len(sigmas) - 2
