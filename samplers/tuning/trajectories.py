"""Fine trajectories, from which searches over schedules learn what a long step would cost."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.calls import takes_parts
from ...core.constructors import name_of
from ...guidance.evaluations import Counting
from ...guidance.protocol import Rule
from ..checks import Keys, Levels, checked
from ..loop import sample, segments
from ..networks import Networks
from ..solvers.euler import euler
from ..solvers.solver import Solver


class Trajectories(NamedTuple):
    """Solutions on a fine schedule.

    Attributes:
        sigmas: the schedule, float64 on the host.
        x: states at every level.
        denoised: guided predictions, at every level but the last.
    """

    sigmas: np.ndarray
    x: Float[Array, "nodes batch *shape"]
    denoised: Float[Array, "steps batch *shape"]

    @property
    def directions(self) -> Float[Array, "steps batch *shape"]:
        """The noise directions dx/dsigma, at every level but the last."""
        start = jnp.asarray(self.sigmas[:-1], self.x.dtype)
        start = start.reshape(-1, *(1,) * (self.x.ndim - 1))
        return (self.x[:-1] - self.denoised) / start


@takes_parts("samplers.tuning")
def teacher(
    denoise: Callable | Networks,
    rule: Rule,
    noise: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    fine: Levels,
    solver: Solver | None = None,
) -> Trajectories:
    """Sample on a fine schedule and keep every state and prediction.

    Costs what `plan(solver, fine, rule)` says, and the memory of ``2 len(fine)`` batches.

    Args:
        denoise, rule, noise, condition, key: as `samplers.sample` takes them.
        fine: noise levels; what is found later is a part of them.
        solver: a deterministic one, Euler's method unless said otherwise.

    Raises:
        ValueError: what `samplers.sample` refuses, or a rule that takes its noise from another
            prediction than the guided one (CFG++): its steps are no jumps along a direction.
    """
    fine = checked(fine, "tuning.teacher")
    takes: Solver = euler() if solver is None else solver
    noise = jnp.asarray(noise)
    _refuse_renoising(rule, takes, fine, noise)
    saved = ("x", "denoised")
    end, kept = sample(denoise, rule, takes, fine, noise, condition, key, save=saved)
    return Trajectories(fine, jnp.concatenate([kept["x"], end[None]]), kept["denoised"])


def _refuse_renoising(rule: Rule, solver: Solver, fine: np.ndarray, noise: Array) -> None:
    def predict(holds, x):
        keys = jax.vmap(jax.random.key)(jnp.arange(x.shape[0]))
        return holds.apply(Counting(x), x, jnp.ones((), x.dtype), rule.init(x), keys)[0]

    for part in segments(rule, solver, fine):
        if jax.eval_shape(predict, part.rule, noise).renoise_from is not None:
            raise ValueError(
                f"samplers.tuning.teacher: the rule {name_of(rule)} takes its noise from another "
                f"prediction than the guided one (CFG++), so that a step is no jump along one "
                f"direction; search with guidance.cfg and use the schedule with either"
            )
