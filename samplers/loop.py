"""The one sampling loop: any rule, any solver, one compiled program a trajectory.

Steps whose rule and solver agree run in one ``lax.scan``, so what a rule switches off at some
noise levels is not in the program there at all.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..guidance.cost import evaluations
from ..guidance.draws import fold_each
from ..guidance.protocol import MAIN, Guided, Rule, keys_per_sample
from ..guidance.registry import name_of
from .branches import MODES, Evaluator, Networks
from .config import SOLVERS
from .schedules import checked
from .solver import Interval, Solver

SAVED = ("x", "denoised", "info")
# Evaluation n of a step draws from stream n; the solver's own noise from this one.
SOLVER_STREAM = 2**20


@dataclasses.dataclass(frozen=True)
class Segment:
    """Consecutive steps that run in one scan."""

    rule: Rule
    solver: Solver
    steps: int


def segments(rule: Rule, solver: Solver, sigmas: np.ndarray) -> list[Segment]:
    """Group the steps of a schedule by the rule and the solver that hold there.

    Neighbours are grouped when their rules have one structure and the very same leaves.
    """
    steps = [(rule.at(float(s)), solver.at(i, sigmas)) for i, s in enumerate(sigmas[:-1])]

    def identity(step):
        holds, takes = step
        leaves, structure = jax.tree.flatten((holds, takes))
        return structure, tuple(id(leaf) for leaf in leaves)

    # Leaves are compared by identity: traced ones cannot be compared by value.
    groups = itertools.groupby(steps, key=lambda step: identity(step))
    result = []
    for _, group in groups:
        members = list(group)
        result.append(Segment(*members[0], steps=len(members)))
    return result


def sample(
    denoise: Callable | Networks,
    rule: Rule,
    solver: Solver,
    sigmas: np.ndarray,
    noise: Float[Array, " batch *shape"],
    condition: Any,
    key: Key[Array, ""] | Key[Array, " batch"],
    *,
    save: str | tuple[str, ...] | None = None,
    branches: str = "fused",
):
    """Sample: follow dx/dsigma = (x - D)/sigma from ``noise * sigmas[0]`` down the schedule.

    Args:
        denoise: callable ``(x, sigma, condition) -> x0 estimate`` in EDM coordinates
            (x = x0 + sigma noise; sigma arrives as a scalar), or a dictionary of them by network
            name: ``{"main": ..., "guide": ...}``. A callable with a ``null_condition`` attribute
            has its branches stacked into one call; one without gets ``condition=None`` for the
            unconditional branch. Pytree callables (`guidestar.models.Denoiser`,
            `jax.tree_util.Partial`) are passed as arguments, so new weights do not recompile.
        rule: a guidance rule, ``guidance.cfg(2.0)``; 1 is off.
        solver: ``samplers.heun()``, ``samplers.euler()``, ...
        sigmas: decreasing noise levels known on the host, with or without a final 0.
        noise: unit normal noise; the first state is ``noise * sigmas[0]``. float32, or float64
            where x64 is on; the state keeps its type.
        condition: passed to the denoiser for the ``given`` branch; None for none.
        key: one key, from which sample i of the batch takes ``fold_in(key, i)``, or one key a
            sample (`samplers.sample_keys`), which makes a sample independent of its batch.
        save: ``"x"``, ``"denoised"``, ``"info"`` or several: also return these at every step.
        branches: ``fused`` or ``sequential`` evaluation of one network's branches.

    Returns:
        x at the last sigma, ``[batch, ...]``; with ``save``, a pair with a dictionary of
        ``[steps, batch, ...]`` arrays: x before each step, its first guided prediction, and the
        rule's diagnostics.

    Raises:
        ValueError: unusable sigmas, a network the rule needs that was not given, unknown
            ``save`` or ``branches``, a rule that the solver is not defined for, or a batch that
            it cannot take.
    """
    sigmas = checked(sigmas)
    networks = dict(denoise) if isinstance(denoise, Mapping) else {MAIN: denoise}
    saved = (save,) if isinstance(save, str) else tuple(save or ())
    if unknown := set(saved) - set(SAVED):
        raise ValueError(f"samplers.sample: save takes {', '.join(SAVED)}, got {sorted(unknown)}")
    if branches not in MODES:
        raise ValueError(f"samplers.sample: branches is {' or '.join(MODES)}, got {branches!r}")
    noise = jnp.asarray(noise)
    if not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(f"samplers.sample: noise must be floating point, got {noise.dtype}")
    solver.check(noise.shape[0], condition)
    owner = name_of(rule)
    # An integer would be an argument of another type: cfg(3) must not compile beside cfg(3.0).
    rule = jax.tree.map(lambda leaf: float(leaf) if type(leaf) is int else leaf, rule)
    parts = segments(rule, solver, sigmas)
    _require_networks(owner, parts, networks, noise)
    program = [(part.rule, part.solver) for part in parts]
    leaves, structure = jax.tree.flatten((networks, rule, solver, program))
    # Numbers and arrays are arguments of the compiled program, everything else (functions,
    # frozen solvers) is part of it.
    numeric = [leaf if _is_number(leaf) else None for leaf in leaves]
    fixed = tuple(None if _is_number(leaf) else leaf for leaf in leaves)
    x, kept = _run(
        (structure, fixed, tuple(part.steps for part in parts), saved, branches),
        [None if leaf is None else jnp.asarray(leaf) for leaf in numeric],
        noise,
        condition,
        keys_per_sample("samplers.sample", key, noise.shape[0]),
        sigmas.astype(noise.dtype),
        jax.tree.map(lambda table: np.asarray(table, noise.dtype), solver.tables(sigmas)),
    )
    return (x, kept) if saved else x


@partial(jax.jit, static_argnums=0)
def _run(static, numeric, noise, condition, keys, sigmas, tables):
    structure, fixed, counts, saved, mode = static
    leaves = [f if n is None else n for n, f in zip(numeric, fixed, strict=True)]
    networks, rule, solver, program = jax.tree.unflatten(structure, leaves)
    x = noise * sigmas[0]
    carry = (x, rule.init(x), solver.init(x))
    number = jnp.arange(sum(counts))
    steps = (number, Interval(sigmas[:-1], sigmas[1:], tables))
    kept, start = [], 0
    for (holds, takes), count in zip(program, counts, strict=True):
        body = partial(_step, networks, holds, takes, condition, keys, mode, saved)
        stop = start + count
        carry, out = jax.lax.scan(body, carry, jax.tree.map(lambda a: a[start:stop], steps))  # noqa: B023
        kept.append(out)
        start = stop
    return carry[0], _joined(kept, saved)


def _step(networks, rule, solver, condition, keys, mode, saved, carry, step):
    x, rule_state, solver_state = carry
    number, interval = step
    step_keys = fold_each(keys, number)
    denoise = _GuidedDenoiser(networks, rule, rule_state, condition, step_keys, mode)
    after, guided, solver_state = solver.step(
        denoise, x, interval, solver_state, fold_each(step_keys, SOLVER_STREAM)
    )
    _require_renoising(rule, guided, solver)
    everything = {"x": x, "denoised": guided.denoised, "info": guided.info}
    out = {name: everything[name] for name in saved}
    return (after, denoise.state, solver_state), out


class _GuidedDenoiser:
    """What a solver calls: ``(x, sigma) -> Guided``, carrying the rule's state between calls."""

    def __init__(self, networks, rule, state, condition, keys, mode):
        self.state, self.count = state, 0
        self._networks, self._rule, self._mode = networks, rule, mode
        self._condition, self._keys = condition, keys

    def __call__(self, x: Array, sigma: Array) -> Guided:
        evaluate = Evaluator(self._networks, x, sigma, self._condition, self._mode)
        keys = fold_each(self._keys, self.count)
        guided, self.state = self._rule.apply(evaluate, x, sigma, self.state, keys)
        self.count += 1
        return guided


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


def _require_networks(owner: str, parts: list[Segment], networks: Networks, x: Array) -> None:
    for part in parts:
        leaves, structure = jax.tree.flatten(part.rule)
        kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        missing = sorted(_networks_of(structure, kinds, x.shape, x.dtype) - networks.keys())
        if missing:
            raise ValueError(
                f"samplers.sample: the rule {owner} needs a network named {missing[0]!r}: pass "
                f"denoise={{'main': ..., '{missing[0]}': ...}}"
            )


@lru_cache(maxsize=1024)
def _networks_of(structure, kinds, shape, dtype) -> frozenset[str]:
    """Return the networks that a kind of rule evaluates; found by tracing, which takes a while."""
    rule = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    return frozenset(evaluations(rule, jax.ShapeDtypeStruct(shape, dtype)))


def _require_renoising(rule: Rule, guided: Guided, solver: Solver) -> None:
    if guided.renoise_from is None or getattr(solver, "renoises", False):
        return
    able = ", ".join(name for name, make in SOLVERS.items() if make().renoises)
    raise ValueError(
        f"samplers.sample: the rule {name_of(rule)} takes its noise from another prediction than "
        f"the guided one (CFG++), which is not defined for {name_of(solver)}; solvers it is "
        f"defined for: {able}"
    )


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (bool, int, float, complex, np.ndarray, np.generic, jax.Array))
