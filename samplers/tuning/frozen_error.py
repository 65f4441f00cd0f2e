"""Schedules that follow the change of predictions along noised data (AYS, arXiv 2404.14507)."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.calls import takes_parts
from ...core.pytrees import pytree
from ...core.random import fold_each, keys_per_sample, normal_like
from ...guidance.protocol import Rule
from ..checks import Keys, Levels, checked, plain
from ..loop import PRIOR_STREAM, sample
from ..networks import Networks
from ..schedules.spaced import exponential
from ..solvers.solver import Common
from .nodes import cheapest, enough

LEVELS = 100


class Shares(NamedTuple):
    """What a step of `Bridge` keeps of the noise, and what it draws anew."""

    keep: Float[Array | np.ndarray, " *steps"]
    draw: Float[Array | np.ndarray, " *steps"]


@pytree
class Bridge(Common):
    """A walk to less noise around known data, ``x_sigma = x0 + W(sigma^2)``, one evaluation a step.

    Any two of its states are jointly distributed as data that is noised further and further.

    Attributes:
        x0: the data.
    """

    order: ClassVar[int] = 0
    x0: Float[Array | np.ndarray, " batch *shape"]

    def tables(self, sigmas):
        """Return each step's `Shares`."""
        share = (sigmas[1:] / sigmas[:-1]) ** 2
        return Shares(share, sigmas[1:] * np.sqrt(1 - share))

    def init(self, x):
        """Return the empty state."""
        del x
        return ()

    def step(self, denoise, x, interval, state, key):
        guided = denoise(x, interval.start)
        noise = normal_like(key, x)
        x = self.x0 + interval.table.keep * (x - self.x0) + interval.table.draw * noise
        return x, guided, state


def frozen_costs(
    denoise: Callable | Networks,
    rule: Rule,
    x0: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    levels: np.ndarray,
    power: float,
) -> np.ndarray:
    """Return ``int_{sigma_j}^{sigma_i} s^-power E ||D(x_s) - D(x_{sigma_i})||^2 ds``, i < j.

    The expectation is over data and one walk of noise for each; all integrals share them.

    Args:
        denoise, rule, x0, condition, key, power: as `align` takes them.
        levels: decreasing and above 0.

    Returns:
        float64 ``[levels, levels]``, infinite unless i < j.
    """
    x0 = jnp.asarray(x0)
    keys = keys_per_sample("samplers.tuning.align", key, x0.shape[0])
    noise = normal_like(fold_each(keys, PRIOR_STREAM), x0) + x0 / levels[0]
    # On to 0, so that the lowest level is evaluated too.
    path = np.append(levels, 0.0)
    _, kept = sample(denoise, rule, Bridge(x0), path, noise, condition, keys, save="denoised")
    change = np.asarray(_changes(kept["denoised"]), np.float64)
    if not np.isfinite(change).all():
        raise ValueError("samplers.tuning.align: the denoiser's predictions are not finite")
    # Trapezoids in log sigma, in which the integrand is smooth from level to level.
    integrand = levels ** (1 - power) * change
    pieces = (integrand[:, 1:] + integrand[:, :-1]) / 2 * np.log(levels[:-1] / levels[1:])
    total = np.cumsum(np.pad(pieces, ((0, 0), (1, 0))), axis=1)
    forward = np.triu(np.ones(change.shape, bool), 1)
    return np.where(forward, total - np.diag(total)[:, None], np.inf)


@jax.jit
def _changes(denoised: Float[Array, "levels batch *shape"]) -> Float[Array, "levels levels"]:
    """Return ``E ||D_i - D_j||^2``, the norm over one sample."""
    flat = denoised.reshape(*denoised.shape[:2], -1)

    def row(one):
        return jax.lax.map(lambda other: jnp.mean(jnp.sum((one - other) ** 2, axis=1)), flat)

    return jax.lax.map(row, flat)


@takes_parts("samplers.tuning")
def align(
    denoise: Callable | Networks,
    rule: Rule,
    steps: int,
    x0: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    fine: Levels | None = None,
    power: float = 3.0,
) -> np.ndarray:
    """Return the schedule on which a prediction frozen for a step is wrong least.

    Minimises ``sum_i int_{sigma_{i+1}}^{sigma_i} s^-power E ||D(x_s; s) - D(x_{sigma_i};
    sigma_i)||^2 ds`` with ``x_{sigma_i} = x_s + sqrt(sigma_i^2 - s^2) z``: up to a factor, at
    power 3, a bound of the KL divergence between the paths of the reverse SDE and of its
    first-order solver. The best levels of the fine schedule, by dynamic programming over the
    integrals between any two of them: the minimum itself, which the published descent over one
    level after another need not reach. Costs ``len(fine)`` evaluations of the rule a sample.

    Args:
        denoise, rule, condition, key: as `samplers.sample` takes them.
        steps: number of steps.
        x0: data, ``[batch, ...]``; where there is none, samples of the model itself.
        fine: levels to choose from, 100 of `exponential` with a final 0 unless said otherwise.
            A final 0 is the last step's end, whatever the others are: the bound has no limit
            there.
        power: 3 is the bound. It cares for the lowest noise most: on Gaussian data of standard
            deviation c, its levels are even in ``log(1 + c^2/sigma^2)`` in the limit of many.
            Power 1 weighs all log sigma alike, a bound of the deterministic step's own error,
            and there tends to `arctan`.

    Returns:
        float64 ``[steps + 1]``, decreasing, with the ends of ``fine``.

    Raises:
        ValueError: more steps than ``fine`` has, unusable levels, or a power that is no number.

    Source: Sabour et al., arXiv 2404.14507.
    """
    fine = checked(exponential(LEVELS) if fine is None else fine, "tuning.align")
    enough("tuning.align", steps, fine)
    plain("tuning.align", power=power)
    levels, ending = (fine[:-1], fine[-1:]) if fine[-1] == 0 else (fine, fine[:0])
    jumps = int(steps) - len(ending)
    if jumps < 1:
        return fine[[0, -1]]
    costs = frozen_costs(denoise, rule, x0, condition, key, levels, power)
    return np.append(levels[cheapest(costs, jumps)], ending)
