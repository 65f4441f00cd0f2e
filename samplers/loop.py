"""The one sampling loop: any rule, any solver, one compiled program a trajectory.

Steps whose rule and solver agree run in one ``lax.scan``, so what a rule switches off at some
noise levels is not in the program there at all. Kinds of step that take turns run in one around
one of each.
"""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.calls import takes_parts
from ..core.constructors import name_of
from ..core.random import fold_each, keys_per_sample
from ..guidance.gradients import pull
from ..guidance.protocol import Guided, Rule
from ..guidance.structure import along
from .arguments import floats, opaque, separated, state_of
from .checks import Keys, Levels, checked
from .conditions import checked_condition
from .config import SOLVERS
from .evaluator import MODES, Evaluator
from .networks import (
    Networks,
    by_name,
    check_estimates,
    check_networks,
    limits,
    warn_of_a_low_start,
)
from .particles.groups import batch_axes, reindex, select
from .priors import Gaussian, Pfgmpp, Prior, check_noise
from .programs import program
from .solvers.solver import Interval, Solver

SAVED = ("x", "denoised", "info", "state")
# Evaluation n of a step draws from stream n; the solver's own noise from this one.
SOLVER_STREAM = 2**20
# Step n draws from stream n of a sample's key; the prior from this one.
PRIOR_STREAM = 2**20


class Calls(NamedTuple):
    """How networks are called.

    Attributes:
        branches: ``fused`` or ``sequential``.
        guarded: see `Evaluator`.
    """

    branches: str
    guarded: bool = False


@dataclasses.dataclass(frozen=True)
class Segment:
    """Consecutive steps that run in one scan."""

    rule: Rule
    solver: Solver
    steps: int


def segments(
    rule: Rule, solver: Solver, sigmas: np.ndarray, *, upward: bool = False
) -> list[Segment]:
    """Group the steps of a schedule by the rule and the solver that hold there.

    Neighbours are grouped when their rules have one structure and the very same leaves.

    Args:
        rule, solver, sigmas: as `sample` takes them, ``sigmas`` as an array.
        upward: whether steps are taken from the last one to the first.
    """
    starts = sigmas[:-1]
    rule = along(rule, starts[::-1] if upward else starts)
    steps = [(rule.at(float(s)), solver.at(i, sigmas)) for i, s in enumerate(starts)]
    result = []
    for _, group in itertools.groupby(steps, key=_identity):
        members = list(group)
        result.append(Segment(*members[0], steps=len(members)))
    return result


def turns(parts: list[Segment]) -> list[tuple[list[Segment], int]]:
    """Group segments that take turns: each group, and how often it comes in a row.

    The segments A B A B A C are A B twice, then A and C once.
    """
    kinds = [(_identity((part.rule, part.solver)), part.steps) for part in parts]
    result, start = [], 0
    while start < len(parts):
        rest = kinds[start:]
        # Neighbours differ, so that no group is of one alone.
        length, times = 1, 1
        for period in range(2, len(rest) // 2 + 1):
            again = 1
            while rest[again * period : (again + 1) * period] == rest[:period]:
                again += 1
            if again > 1:
                length, times = period, again
                break
        result.append((parts[start : start + length], times))
        start += length * times
    return result


def _identity(part: Any) -> Any:
    # Leaves are compared by identity: traced ones cannot be compared by value.
    leaves, structure = jax.tree.flatten(part)
    return structure, tuple(id(leaf) for leaf in leaves)


@takes_parts("samplers")
def sample(
    denoise: Callable | Networks,
    rule: Rule,
    solver: Solver,
    sigmas: Levels,
    noise: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    prior: Prior = Gaussian(),  # noqa: B008  (immutable)
    save: str | tuple[str, ...] | None = None,
    branches: str = "fused",
):
    """Sample: follow dx/dsigma = (x - D)/sigma from noise down the schedule.

    Args:
        denoise: callable ``(x, sigma, condition) -> x0 estimate`` in EDM coordinates
            (x = x0 + sigma noise; sigma arrives as a scalar), or a dictionary of them by network
            name: ``{"main": ..., "guide": ...}``. A callable with a ``null_condition`` attribute
            has its branches stacked into one call; one without gets ``condition=None`` for the
            unconditional branch. One with a ``sigma_range`` is not asked above it, and of one
            that is ``latent`` no prediction is thresholded; labels are held to its
            ``num_classes`` (see `samplers.conditions`). Pytree callables
            (`guidestar.models.Denoiser`, `jax.tree_util.Partial`) are passed as arguments, so new
            weights do not recompile. Other callables are traced anew at every call, which costs
            that time but sees whatever they hold now.
        rule: a guidance rule, ``guidance.cfg(2.0)``; 1 is off.
        solver: ``samplers.heun()``, ``samplers.euler()``, ...
        sigmas: decreasing noise levels known on the host, with or without a final 0.
        noise: unit normal noise. float32, or float64 where x64 is on; the state keeps its type.
        condition: passed to the denoiser for the ``given`` branch: labels ``[batch]`` (an array of
            integers, or a list), another pytree of arrays, or None for none. A label that is
            traced, so that it cannot be refused, and that the network does not know gives a
            sample of NaN.
        key: one key, from which sample i of the batch takes ``fold_in(key, i)``, or one key a
            sample (`samplers.sample_keys`), which makes a sample independent of its batch.
        prior: makes the first state from the noise, ``noise * sigmas[0]`` unless said otherwise.
        save: ``"x"``, ``"denoised"``, ``"info"``, ``"state"`` or several: also return these at
            every step.
        branches: ``fused`` or ``sequential`` evaluation of one network's branches.

    Returns:
        x at the last sigma, ``[batch, ...]``; with ``save``, a pair with a dictionary of
        ``[steps, batch, ...]`` arrays: x before each step, its first guided prediction, the
        rule's diagnostics there, and the rule's state after the step, a pytree.

    Raises:
        ValueError: unusable sigmas, or some above a network's ``sigma_range``, a network that
            estimates other than the solver asks for (a consistency function, a flow map), or at a
            scale that it was not trained at, a network the rule needs that was not given, labels
            that a network does not know, guidance that cannot do anything, predictions of another
            shape or type than their samples', noise that is not of unit size or has fewer bits
            than float32, thresholding of latents, unknown ``save`` or ``branches``, a rule that the
            solver is not defined for, or a batch, a schedule or samples that solver or prior cannot
            take.

    Warns:
        UserWarning: a part of the rule holds at no step, a network is never asked, or unit
            noise at the schedule's start is not what a network was trained on.
    """
    sigmas = checked(sigmas)
    networks = by_name("sample", denoise)
    saved = (save,) if isinstance(save, str) else tuple(save or ())
    if unknown := set(saved) - set(SAVED):
        raise ValueError(f"samplers.sample: save takes {', '.join(SAVED)}, got {sorted(unknown)}")
    if branches not in MODES:
        raise ValueError(f"samplers.sample: branches is {' or '.join(MODES)}, got {branches!r}")
    noise = state_of("sample", "noise", noise)
    keys = keys_per_sample("samplers.sample", key, noise.shape[0])
    solver.check(noise.shape[0], condition)
    prior.check(sigmas, noise)
    parts = segments(rule, solver, sigmas)
    check_networks("sample", rule, parts, sigmas, networks, noise)
    check_estimates("sample", parts, solver, networks, noise)
    condition, guarded = checked_condition(
        "sample", rule, parts, networks, condition, noise, prior=prior
    )
    check_noise("sample", noise, float(sigmas[0]))
    if isinstance(prior, (Gaussian, Pfgmpp)):
        warn_of_a_low_start("sample", parts[0], float(sigmas[0]), networks, noise)
    loops = turns(parts)
    steps = [[(floats(part.rule), part.solver) for part in group] for group, _ in loops]
    counts = tuple((tuple(part.steps for part in group), times) for group, times in loops)
    fixed, numbers = separated((networks, floats(rule), solver, prior, steps))
    tables = tables_within(solver, sigmas, limits(parts, networks, noise))
    x, kept = _run(
        (fixed, counts, saved, Calls(branches, guarded)),
        numbers,
        noise,
        condition,
        keys,
        sigmas.astype(noise.dtype),
        jax.tree.map(lambda table: np.asarray(table, noise.dtype), tables),
        opaque=opaque(networks),
    )
    return (x, kept) if saved else x


def tables_within(solver: Solver, sigmas: np.ndarray, highest: np.ndarray) -> Any:
    """Return a solver's tables, for networks that know no more than ``highest`` in each step."""
    within = getattr(solver, "tables_within", None)
    return solver.tables(sigmas) if within is None else within(sigmas, highest)


@program
def _run(static, numbers, noise, condition, keys, sigmas, tables):
    fixed, counts, saved, calls = static
    networks, rule, solver, prior, loops = fixed.filled(numbers)
    x = prior(noise, sigmas[0], fold_each(keys, PRIOR_STREAM), condition)
    carry = (x, rule.init(x), solver.init(x))

    def body(holds, takes):
        return partial(_step, networks, holds, takes, condition, keys, calls, saved)

    def through(parts, lengths, carry, steps):
        kept = []
        for part, own in zip(parts, _cut(steps, lengths), strict=True):
            carry, out = jax.lax.scan(body(*part), carry, own)
            kept.append(out)
        return carry, _joined(kept, saved)

    steps = (jnp.arange(len(sigmas) - 1), Interval(sigmas[:-1], sigmas[1:], tables))
    kept = []
    spans = [sum(lengths) * times for lengths, times in counts]
    for parts, (lengths, times), own in zip(loops, counts, _cut(steps, spans), strict=True):
        if times == 1:
            carry, out = through(parts, lengths, carry, own)
        else:
            rows = jax.tree.map(lambda a: a.reshape((times, -1, *a.shape[1:])), own)  # noqa: B023
            carry, out = jax.lax.scan(partial(through, parts, lengths), carry, rows)
            out = jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), out)
        kept.append(out)
    return carry[0], _joined(kept, saved)


def _cut(steps: Any, lengths: Sequence[int]) -> list[Any]:
    """Return rows of arrays in pieces of these lengths."""
    ends = list(itertools.accumulate(lengths))
    starts = [0, *ends[:-1]]
    return [
        jax.tree.map(lambda a: a[start:end], steps)  # noqa: B023
        for start, end in zip(starts, ends, strict=True)
    ]


def _step(networks, rule, solver, condition, keys, calls, saved, carry, step):
    x, rule_state, solver_state = carry
    number, interval = step
    step_keys = fold_each(keys, number)
    denoise = GuidedDenoiser(networks, rule, rule_state, condition, step_keys, calls)
    denoise.end = interval.end
    after, guided, solver_state = solver.step(
        denoise, x, interval, solver_state, fold_each(step_keys, SOLVER_STREAM)
    )
    _require_renoising(guided, getattr(solver, "renoises", False), name_of(solver))
    everything = {
        "x": x,
        "denoised": guided.denoised,
        "info": guided.info,
        "state": denoise.state,
    }
    out = {name: everything[name] for name in saved}
    return (after, denoise.state, solver_state), out


class GuidedDenoiser:
    """What a solver calls (see `solver.Denoise`); it carries the rule's state between calls."""

    def __init__(self, networks, rule, state, condition, keys, calls, count=0):
        self.state, self.count = state, count
        self.end: Array | None = None
        self.condition = condition
        self._networks, self._rule = networks, rule
        self._fixed = (condition, keys, calls)

    @property
    def remembers(self) -> bool:
        """Whether the rule has a state."""
        return bool(jax.tree.leaves(self.state))

    def __call__(
        self,
        x: Array,
        sigma: Array,
        to: Array | None = None,
        *,
        scale: Array | float | None = None,
    ) -> Guided:
        evaluate, keys = self._asked(x, sigma, to, scale)
        guided, self.state = self._rule.apply(evaluate, x, sigma, self.state, keys)
        return guided

    def _asked(self, x, sigma, to=None, scale=None):
        """Return what the rule asks for predictions, and its keys, of the next evaluation."""
        condition, keys, calls = self._fixed
        evaluate = Evaluator(
            *(self._networks, x, sigma, condition, calls.branches, to),
            scale=scale,
            end=self.end,
            guarded=calls.guarded,
        )
        keys = fold_each(keys, self.count)
        self.count, self._at = self.count + 1, x
        return evaluate, keys

    def pull(self, x: Array, sigma: Array) -> tuple[Guided, Callable[[Array], Array]]:
        evaluate, keys = self._asked(x, sigma)
        guided, self.state, back = pull(evaluate, self._rule, x, sigma, self.state, keys)
        return guided, back

    def several(self, xs: Array, sigma: Array) -> tuple[Guided, Callable[[Array], None]]:
        def once(number, x):
            inner = GuidedDenoiser(self._networks, self._rule, self.state, *self._fixed, number)
            inner.end = self.end
            guided = inner(x, sigma)
            return number + 1, (guided, inner.state)

        _, (guided, states) = jax.lax.scan(once, jnp.asarray(self.count), xs)
        self.count += len(xs)

        def choose(chosen):
            self.state = select(states, chosen, batch_axes(self._rule.init, xs[0]))

        return guided, choose

    def reindex(self, carry: Any, ancestors: Array) -> Any:
        # Most rules remember nothing, and their axes need not be found.
        if self.remembers:
            self.state = reindex(self.state, ancestors, batch_axes(self._rule.init, self._at))
        return reindex(carry, ancestors)

    def scan(self, body: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
        def once(carry, row):
            carry, state = carry
            number, x = row
            inner = GuidedDenoiser(self._networks, self._rule, state, *self._fixed, number)
            inner.end = self.end
            carry, y = body(inner, carry, x)
            return (carry, inner.state), y

        rows = len(jax.tree.leaves(xs)[0])
        numbers = self.count + jnp.arange(rows)
        (carry, self.state), ys = jax.lax.scan(once, (carry, self.state), (numbers, xs))
        self.count += rows
        return carry, ys


def _joined(kept: list[dict], saved: tuple[str, ...]) -> dict:
    """Join what the segments saved; diagnostics that some segments lack are NaN there."""
    names = {name for part in kept for name in part.get("info", {})}
    for part in kept:
        if "info" in saved:
            shape = next(
                (value.shape[1:] for other in kept for value in other["info"].values()), ()
            )
            steps = next(iter(jax.tree.leaves(part)), jnp.zeros(0)).shape[0]
            for name in names - part["info"].keys():
                part["info"][name] = jnp.full((steps, *shape), jnp.nan)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept) if saved else {}


def _require_renoising(guided: Guided, renoises: bool, solver: str) -> None:
    if guided.renoise_from is None or renoises:
        return
    able = ", ".join(
        name
        for name in SOLVERS
        if not _required(SOLVERS[name].build) and SOLVERS[name].build().renoises
    )
    raise ValueError(
        f"samplers.sample: the rule takes its noise from another prediction than the guided one "
        f"(CFG++), which is not defined for {solver}; solvers it is defined for: {able}"
    )


def _required(make: Callable) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return any(parameter.default is parameter.empty for parameter in parameters)
