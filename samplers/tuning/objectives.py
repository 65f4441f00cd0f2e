"""What a sampler is judged by when searches try it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ...core.calls import takes_parts
from ...guidance.protocol import Rule
from ..checks import Keys
from ..loop import sample
from ..networks import Networks
from ..solvers.solver import Solver

Objective = Callable[[Solver, np.ndarray], float]


@takes_parts("samplers.tuning")
def endpoint_error(
    denoise: Callable | Networks,
    rule: Rule,
    noise: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    truth: Float[Array | np.ndarray, " batch *shape"],
    **options,
) -> Objective:
    """Return an objective: the RMS distance of samples from a fine solution of the same noise.

    One call costs what `plan` says of its solver and schedule, for every sample. Noise and keys
    are the same in every call, so that candidates differ by themselves alone; solvers of equal
    structure on as many steps run in one compiled program.

    Args:
        denoise, rule, noise, condition, key, options: as `samplers.sample` takes them.
        truth: where the noise should end, such as ``teacher(...).x[-1]``.

    Raises:
        ValueError: a truth of another shape than the noise.
    """
    if np.shape(truth) != np.shape(noise):
        raise ValueError(
            f"samplers.tuning.endpoint_error: truth must be one end for each sample of the noise, "
            f"{np.shape(noise)}, got {np.shape(truth)}"
        )
    expected = np.asarray(truth)

    def objective(solver: Solver, sigmas: np.ndarray) -> float:
        end = sample(denoise, rule, solver, sigmas, noise, condition, key, **options)
        return float(np.sqrt(np.mean((np.asarray(end) - expected) ** 2)))

    return objective
