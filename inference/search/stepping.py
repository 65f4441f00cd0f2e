"""One step of a sampler at a time, its prediction at hand: for searches within a trajectory."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ... import guidance
from ...core.random import fold_each
from ...guidance.protocol import Guided
from ...samplers.arguments import floats, opaque, separated
from ...samplers.conditions import checked_condition
from ...samplers.loop import (
    PRIOR_STREAM,
    SOLVER_STREAM,
    Calls,
    GuidedDenoiser,
    segments,
    tables_within,
)
from ...samplers.networks import by_name, limits
from ...samplers.programs import program
from ...samplers.solvers.solver import Interval
from .bound_sampler import Bound, evaluations_in


class Place(NamedTuple):
    """Where a trajectory is, with the prediction there.

    Attributes:
        x: at a noise level.
        guided: the prediction.
        rule: the rule's next state.
    """

    x: Float[Array, " batch *shape"]
    guided: Guided
    rule: Any


def costs_of(owner: str, sample: Bound) -> list[int]:
    """Return the evaluations of the prediction at each level but the last.

    Raises:
        ValueError: in the name of ``owner``, a solver that carries a state, or that asks for more
            than one prediction a step.
    """
    rule = guidance.cost(sample.rule, sample.sigmas[:-1], sample.shape)
    like = jax.ShapeDtypeStruct((2, *sample.shape), np.float32)
    state = jax.eval_shape(sample.solver.init, like)
    if sample.plan().evaluations != rule or jax.tree.leaves(state):
        raise ValueError(
            f"search.{owner}: the solver asks for more than one prediction a step, or remembers "
            f"earlier ones, and this search tries steps from one prediction: take ancestral, "
            f"euler_maruyama or euler"
        )
    return [evaluations_in(one) for one in rule]


class Walk:
    """A sampler's way, step by step, with what `samplers.sample` computes on it.

    Args:
        sample: what `bound` made, of a solver that `costs_of` takes.
        like: noise, for its shape and type.
        condition: as `samplers.sample` takes it.
        keys: one a sample.

    Raises:
        ValueError: what `samplers.sample` refuses.
    """

    def __init__(
        self,
        sample: Bound,
        like: Float[Array, " batch *shape"],
        condition: Any,
        keys: Key[Array, " batch"],
    ):
        # Traced as a whole once: what it refuses is refused here, before anything is compiled.
        jax.eval_shape(partial(sample, condition=condition, key=keys), like)
        self._networks = by_name("sample", sample.denoise)
        parts = segments(sample.rule, sample.solver, sample.sigmas)
        self._condition, guarded = checked_condition(
            "sample", sample.rule, parts, self._networks, condition, like, prior=sample.prior
        )
        self._sample, self._calls = sample, Calls(sample.branches, guarded)
        self._sigmas = sample.sigmas.astype(like.dtype)
        highest = limits(parts, self._networks, like)
        self._tables = jax.tree.map(
            lambda table: np.asarray(table, like.dtype),
            tables_within(sample.solver, sample.sigmas, highest),
        )
        self.steps = len(sample.sigmas) - 1

    def begin(self, noise: Array, keys: Key[Array, " batch"]) -> Place:
        """Return where noise begins."""
        rule, prior = floats(self._sample.rule), self._sample.prior
        fixed, numbers = separated((self._networks, self._rule(0), rule, prior))
        return self._run(_begin, fixed, numbers, noise, keys, 0)

    def step(self, number: int, place: Place, keys: Key[Array, " batch"]) -> Place:
        """Return where step ``number``, but for the last, leads from a place."""
        held = self._networks, self._rule(number + 1), self._solver(number)
        return self._run(_step, *separated(held), place, keys, number)

    def last(self, place: Place, keys: Key[Array, " batch"]) -> Float[Array, " batch *shape"]:
        """Return where the last step leads: finished samples."""
        number = self.steps - 1
        return self._run(_last, *separated(self._solver(number)), place, keys, number)

    def _run(self, program, fixed, numbers, place, keys, number):
        return program(
            (fixed, self._calls),
            numbers,
            place,
            self._condition,
            keys,
            # Levels are looked up, so that one program takes all steps.
            (np.int32(number), self._sigmas, self._tables),
            opaque=opaque(self._networks),
        )

    def _rule(self, number: int) -> guidance.Rule:
        return floats(self._sample.rule.at(float(self._sample.sigmas[number])))

    def _solver(self, number: int) -> Any:
        return self._sample.solver.at(number, self._sample.sigmas)


class _Known:
    """A guided denoiser (see `solver.Denoise`) that answers with a prediction that is there."""

    end = None

    def __init__(self, guided: Guided):
        self._guided = guided

    def __call__(self, x, sigma, to=None, *, scale=None):
        del x, sigma, to, scale
        return self._guided


@program
def _begin(static, numbers, noise, condition, keys, schedule):
    fixed, calls = static
    networks, holds, rule, prior = fixed.filled(numbers)
    number, sigmas, _ = schedule
    x = prior(noise, sigmas[number], fold_each(keys, PRIOR_STREAM), condition)
    denoise = GuidedDenoiser(networks, holds, rule.init(x), condition, fold_each(keys, 0), calls)
    return _looked_at(denoise, x, sigmas, number)


@program
def _step(static, numbers, place, condition, keys, schedule):
    fixed, calls = static
    networks, holds, solver = fixed.filled(numbers)
    number, sigmas, _ = schedule
    x = _moved(solver, place, keys, schedule)
    own = fold_each(keys, number + 1)
    denoise = GuidedDenoiser(networks, holds, place.rule, condition, own, calls)
    return _looked_at(denoise, x, sigmas, number + 1)


@program
def _last(static, numbers, place, condition, keys, schedule):
    del condition
    return _moved(static[0].filled(numbers), place, keys, schedule)


def _looked_at(denoise: GuidedDenoiser, x: Array, sigmas: Array, number: Array) -> Place:
    denoise.end = sigmas[number + 1]
    guided = denoise(x, sigmas[number])
    return Place(x, guided, denoise.state)


def _moved(solver, place, keys, schedule):
    number, sigmas, tables = schedule
    table = jax.tree.map(lambda table: table[number], tables)
    own = fold_each(fold_each(keys, number), SOLVER_STREAM)
    interval = Interval(sigmas[number], sigmas[number + 1], table)
    return solver.step(_Known(place.guided), place.x, interval, (), own)[0]


def selected(mask: Array, one: Any, other: Any) -> Any:
    """Return the samples of one tree where a mask ``[batch]`` holds, of the other elsewhere.

    Numbers that are not one a sample are those of a step, and the same in both.
    """
    batch = mask.shape[0]

    def choose(new, old):
        if new.shape[:1] != (batch,):
            return new
        return jax.numpy.where(mask.reshape((batch,) + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, one, other)
