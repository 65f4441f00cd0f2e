"""A sampler with everything bound but its noise: what searches run again and again."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ... import samplers
from ...core.part_types import PART_TYPES, PartType
from ...guidance.evaluations import SHAPE
from ...guidance.gradients import GRADIENT, REWARD
from ...guidance.protocol import Rule
from ...samplers.checks import Levels, checked
from ...samplers.networks import Networks, by_name
from ...samplers.plans import BACKWARD


@dataclasses.dataclass(frozen=True)
class Bound:
    """What `samplers.sample` takes beside noise, condition and key.

    Attributes:
        denoise: a denoiser, or several by name.
        rule: any.
        solver, sigmas, prior, branches: as `samplers.sample` takes them.
        shape: one sample's; matters for rules that cut windows alone.
    """

    denoise: Callable | Networks
    rule: Rule
    solver: samplers.Solver
    sigmas: np.ndarray
    prior: samplers.Prior
    branches: str
    shape: tuple[int, ...]

    def __call__(
        self, noise: Float[Array, " batch *shape"], condition: Any, key: Key[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        """Return samples, as `samplers.sample` makes them."""
        return samplers.sample(
            self.denoise,
            self.rule,
            self.solver,
            self.sigmas,
            noise,
            condition,
            key,
            prior=self.prior,
            branches=self.branches,
        )

    def piece(self, first: int, last: int) -> "Bound":
        """Return what goes from level number ``first`` to ``last``, from states over their sigma.

        A multistep solver begins a piece without history.
        """
        prior = samplers.gaussian() if first else self.prior
        return dataclasses.replace(self, sigmas=self.sigmas[first : last + 1], prior=prior)

    def prediction(self, level: int) -> "Bound":
        """Return what makes the guided prediction at a level: Euler's step from there to 0."""
        sigmas = np.array([self.sigmas[level], 0.0])
        return dataclasses.replace(
            self, solver=samplers.euler(), sigmas=sigmas, prior=samplers.gaussian()
        )

    def require_predictions(self, owner: str) -> None:
        """Refuse a solver whose network does not predict clean samples.

        Raises:
            ValueError: in the name of ``owner``.
        """
        estimate = getattr(self.solver, "estimate", "x0")
        if estimate != "x0":
            raise ValueError(
                f"search.{owner}: the solver asks its network for a {estimate}, and this search "
                f"looks at predictions of clean samples: take best_of_n or zero_order"
            )

    def resumed(
        self, x: Float[Array, " batch *shape"], condition: Any, key: Key[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        """Return what states ``x`` at the first level become at the last."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a start below the network's highest
            return self(x / self.sigmas[0].astype(x.dtype), condition, key)

    def plan(self) -> samplers.Plan:
        """Return what a run evaluates."""
        return samplers.plan(self.solver, self.sigmas, self.rule, self.shape)

    def evaluations(self) -> int:
        """Return the evaluations of a run, see `evaluations_in`."""
        return evaluations_in(self.plan().totals)


PART_TYPES[Bound] = PartType(
    "a bound sampler",
    lambda value: isinstance(value, Bound),
    ": bind it by search.bound(denoise, rule, solver, sigmas)",
)


def evaluations_in(counts: Mapping[str, int]) -> int:
    """Return how many evaluations counts by network name are.

    Each network's count alike; a backward pass counts as two, and rewards, which are counted
    apart, as none.
    """
    return sum(
        count * (BACKWARD if name.endswith(GRADIENT) else 1)
        for name, count in counts.items()
        if name.removesuffix(GRADIENT) != REWARD
    )


def bound(
    denoise: Callable | Networks,
    rule: Rule,
    solver: samplers.Solver,
    sigmas: Levels,
    *,
    prior: samplers.Prior | None = None,
    branches: str = "fused",
    shape: tuple[int, ...] | None = None,
) -> Bound:
    """Bind a sampler, for searches to run from noise after noise.

    Args:
        denoise, rule, solver, sigmas, prior, branches: as `samplers.sample` takes them. Networks
            that are pytrees are compiled once; others are traced anew for every candidate.
        shape: one sample's, where the networks do not say; matters for rules that cut windows.

    Raises:
        ValueError: unusable sigmas, or a method of particles, whose samples depend on each other.
    """
    if hasattr(solver, "particles"):
        raise ValueError(
            "search.bound: the solver weighs particles of a group against each other, and a "
            "search chooses among samples that do not depend on each other: take another solver, "
            "or sample by it without a search"
        )
    networks = by_name("sample", denoise)
    known = next((one.shape for one in networks.values() if hasattr(one, "shape")), SHAPE)
    return Bound(
        denoise,
        rule,
        solver,
        checked(sigmas),
        samplers.gaussian() if prior is None else prior,
        branches,
        tuple(known if shape is None else shape),
    )


def repeated(tree: Any, times: int) -> Any:
    """Return a batch several times over, one after the other, in every array ``[batch, ...]``."""
    if times == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.numpy.concatenate([leaf] * times), tree)
