"""Steps of several kinds in one loop, around one copy of the network.

XLA copies a network to every place of a program that calls it. A solver that takes Heun's steps,
say, and one of Euler's to 0 would have two copies, and take twice as long to compile. Here every
step is cut where it asks for a prediction, and one loop runs over the evaluations: whatever the
step, the network is asked at one place.

A step is cut by running it with a denoiser that answers what is known and stops at the first
question that is not. A solver's arithmetic is repeated at each of its step's evaluations, in every
kind of step, and what does not belong there is thrown away; the network is never asked in vain.
Steps that draw noise are not cut: they would draw it again and again, and a generator is as large
a program as many a network.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..guidance.protocol import Guided
from .solvers.solver import Interval, Solver


class Question(NamedTuple):
    """Where a step asks for a prediction, and where it ends."""

    x: Float[Array, " batch *shape"]
    sigma: Float[Array, ""]
    end: Float[Array, ""] | None


class Stages(NamedTuple):
    """What a step hands to `Denoise.scan`, a plain call being a scan of one row."""

    body: Callable
    carry: Any
    rows: Any
    end: Array | None


class Result(NamedTuple):
    """What a step returns."""

    x: Float[Array, " batch *shape"]
    guided: Guided
    state: Any


class Uncut(Exception):
    """A step that is not cut: it draws, or asks for more than a guided prediction at a point."""


class _Unknown(Exception):
    def __init__(self, question: Question | Stages):
        super().__init__()
        self.question = question


class _Replay:
    """A denoiser (see `solver.Denoise`) that knows what its first scans came to."""

    def __init__(self, end: Array, known: Sequence[tuple[Any, Any]]):
        self.end: Array | None = end
        self._known = iter(known)

    def __call__(self, x, sigma, to=None, *, scale=None):
        def alone(denoise, carry, row):
            del row
            return carry, denoise(x, sigma, to, scale=scale)

        _, answers = self.scan(alone, (), jnp.zeros(1))
        return jax.tree.map(lambda answer: answer[0], answers)

    def scan(self, body, carry, xs):
        for result in self._known:
            return result
        raise _Unknown(Stages(body, carry, xs, self.end))


class _Stage:
    """A denoiser that knows one answer, or none."""

    def __init__(self, end: Array | None, answer: Guided | None = None):
        self.end, self._answer = end, answer

    def __call__(self, x, sigma, to=None, *, scale=None):
        if to is not None or scale is not None:
            raise Uncut
        answer, self._answer = self._answer, None
        if answer is None:
            raise _Unknown(Question(x, sigma, self.end))
        return answer

    def scan(self, body, carry, xs):
        raise Uncut


class Step(NamedTuple):
    """A step up to the end of the stages that it is at."""

    solver: Solver
    x: Float[Array, " batch *shape"]
    interval: Interval
    state: Any
    key: Any

    def next(self, known: Sequence[tuple[Any, Any]]) -> Stages | Result:
        """Return the next stages after those that are known, or what the step comes to."""
        denoise = _Replay(jnp.asarray(self.interval.end), known)
        try:
            return Result(*self.solver.step(denoise, self.x, self.interval, self.state, self.key))
        except _Unknown as unknown:
            assert isinstance(unknown.question, Stages)
            return unknown.question


def asked(stages: Stages, carry: Any, row: Any) -> Question:
    """Return what one stage asks."""
    try:
        stages.body(_Stage(stages.end), carry, row)
    except _Unknown as unknown:
        assert isinstance(unknown.question, Question)
        return unknown.question
    raise Uncut


def told(stages: Stages, carry: Any, row: Any, answer: Guided) -> tuple[Any, Any]:
    """Return what one stage makes of its answer: the next carry, and its y."""
    try:
        return stages.body(_Stage(stages.end, answer), carry, row)
    except _Unknown:
        raise Uncut from None


class Pieces(NamedTuple):
    """What a step is cut into.

    Attributes:
        counts: the rows of its scans.
        known: what its scans come to, carry and ys, as shapes and types.
        result: what the step does.
    """

    counts: list[int]
    known: list[tuple[Any, Any]]
    result: Result


def pieces_of(step: Step, answer: Guided) -> Pieces:
    """Return what a step is cut into.

    Raises:
        Uncut: it cannot be cut.
    """
    solver, counts = step.solver, []
    known: list[tuple[Any, Any]] = []

    def onwards(key, rest, answer, known):
        stages = Step(solver, *rest, key).next(known)
        if isinstance(stages, Result):
            return stages
        counts.append(len(jax.tree.leaves(stages.rows)[0]))
        row = _at(stages.rows, 0)
        asked(stages, stages.carry, row)
        carry, y = told(stages, stages.carry, row, answer)
        return carry, _spread(y, counts[-1])

    while True:
        arguments = step.key, (step.x, step.interval, step.state), answer, known
        closed, result = jax.make_jaxpr(onwards, return_shape=True)(*arguments)
        key = closed.jaxpr.invars[0]
        if any(key is one for equation in closed.jaxpr.eqns for one in equation.invars):
            raise Uncut
        if isinstance(result, Result):
            return Pieces(counts, known, result)
        known.append(result)


class Kind(NamedTuple):
    """Steps of one solver in a loop of several.

    Attributes:
        solver: that takes them.
        steps: for each step of the loop the one whose constants are taken here: itself where it
            is of this kind, else a neighbour that is, so that what is thrown away is finite.
    """

    solver: Solver
    steps: np.ndarray


def kinds_of(solvers: Sequence[Solver], which: Sequence[int]) -> list[Kind]:
    """Return the kinds of the steps of a loop.

    Args:
        solvers: of the kinds.
        which: for each step, the number of its kind.
    """
    numbers = np.arange(len(which))
    result = []
    for number, solver in enumerate(solvers):
        own = np.flatnonzero(np.asarray(which) == number)
        nearest = own[np.abs(numbers[:, None] - own).argmin(axis=1)]
        result.append(Kind(solver, nearest))
    return result


def merged(
    kinds: Sequence[Kind],
    which: Sequence[int],
    numbers: Int[Array, " steps"],
    steps: Interval,
    keys: Callable[[Array], Any],
    evaluate: Callable,
    carry: tuple,
    saved: Callable,
) -> tuple[tuple, Any]:
    """Run steps of several kinds, one evaluation after another.

    Args:
        kinds: see `kinds_of`.
        which: for each step, the number of its kind.
        numbers: of the steps in the trajectory.
        steps: the steps' levels and constants, a row each.
        keys: from the number of a step to what its solver draws from.
        evaluate: ``(question, rule's state, step, evaluation within it) -> (guided, rule's
            state)``, the one place where networks are asked.
        carry: samples, rule's state and solver's state before the first step.
        saved: ``(x, guided) -> pytree`` to keep of each step.

    Returns:
        The carry after the last step, and what is kept of the steps.

    Raises:
        Uncut: a step cannot be cut.
    """
    x, rule_state, solver_state = carry
    first = Question(x, jnp.asarray(steps.start[0]), jnp.asarray(steps.end[0]))
    zero = jnp.zeros((), jnp.int32)
    begun = [
        Step(one.solver, x, _at(steps, one.steps[0]), solver_state, keys(zero)) for one in kinds
    ]
    for step in begun:
        pieces_of(step, Guided(x))  # refused before a network is traced
    arguments = (first, rule_state, zero, zero)
    # Traced once, for its shapes and for the loop.
    closed, answer = jax.make_jaxpr(evaluate, return_shape=True)(*arguments)

    def answered(*arguments):
        out = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(answer), out)

    pieces = [pieces_of(step, answer[0]) for step in begun]
    _require_alike([one.result for one in pieces], x, solver_state)
    return _run(kinds, pieces, which, numbers, steps, keys, answered, carry, saved)


def _run(kinds, pieces, which, numbers, steps, keys, answered, carry, saved):
    # Of each evaluation: its step, its place in the step, whether it is the step's last, and for
    # each kind which of its scans is at which row; a kind at rest stands at its first.
    places = []
    for step, kind in enumerate(which):
        inside = [
            (scan, row) for scan, rows in enumerate(pieces[kind].counts) for row in range(rows)
        ]
        for place, at in enumerate(inside):
            spots = [at if number == kind else (0, 0) for number in range(len(kinds))]
            places.append((step, place, place == len(inside) - 1, kind, spots))
    step, place, last, kind_at = (np.array([one[i] for one in places]) for i in range(4))
    spots = np.array([one[4] for one in places], np.int32)
    constants = [jax.tree.map(lambda a, k=kind: a[k.steps[step]], steps) for kind in kinds]
    rows = (numbers[step], place.astype(np.int32), last, kind_at, spots, constants)
    blank = [
        jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), one.known) for one in pieces
    ]

    def body(carry, row):
        (x, rule_state, solver_state), memories = carry
        number, place, last, kind, spots, constants = row
        cuts = []
        for n, (one, interval, memory) in enumerate(zip(kinds, constants, memories, strict=True)):
            step = Step(one.solver, x, interval, solver_state, keys(number))
            cuts.append(_cut(step, pieces[n].counts, memory, spots[n]))
        question = _chosen(kind, [cut.question for cut in cuts])
        guided, rule_state = answered(question, rule_state, number, place)
        results, kept = [], []
        for cut in cuts:
            memory, result = cut.after(guided)
            kept.append(memory)
            results.append(result)
        after = _chosen(kind, results)
        out = saved(x, after.guided)
        x, solver_state = _where(last, (after.x, after.state), (x, solver_state))
        return ((x, rule_state, solver_state), kept), out

    (carry, _), out = jax.lax.scan(body, (carry, blank), rows)
    return carry, jax.tree.map(lambda one: one[np.flatnonzero(last)], out)


class _Cut(NamedTuple):
    """A step at one of its evaluations."""

    step: Step
    counts: list[int]
    memory: list
    spot: Any
    scans: list
    question: Question

    def after(self, answer: Guided) -> tuple[list, Result]:
        """Return what the step's scans have come to with an answer, and the step with them."""
        scan, row = self.spot
        memory = []
        for number, ((stages, before), (_, ys)) in enumerate(
            zip(self.scans, self.memory, strict=True)
        ):
            carry, y = told(stages, before, _at(stages.rows, row), answer)
            # From its first row on, all others are as that one: finite wherever they are used.
            fresh = _spread(y, self.counts[number])
            written = jax.tree.map(lambda all_, one: all_.at[row].set(one), ys, y)
            new = carry, _where(row == 0, fresh, written)
            memory.append(_where(scan == number, new, self.memory[number]))
        result = self.step.next(memory)
        assert isinstance(result, Result)
        return memory, result


def _cut(step: Step, counts: list[int], memory: list, spot: Any) -> _Cut:
    scan, row = spot
    scans: list = []
    questions = []
    for number, (carry, _) in enumerate(memory):
        stages = step.next(memory[:number])
        assert isinstance(stages, Stages)
        before = _where(row == 0, stages.carry, carry)
        scans.append((stages, before))
        questions.append(asked(stages, before, _at(stages.rows, row)))
    return _Cut(step, counts, memory, spot, scans, _chosen(scan, questions))


def _chosen(which: Any, trees: Sequence[Any]) -> Any:
    """Return the tree of a number."""
    result = trees[0]
    for number, tree in enumerate(trees[1:], start=1):
        result = _where(which == number, tree, result)
    return result


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), yes, no)


def _at(tree: Any, row: Any) -> Any:
    return jax.tree.map(lambda rows: jnp.asarray(rows)[row], tree)


def _spread(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda one: jnp.broadcast_to(one, (count, *jnp.shape(one))), tree)


def _require_alike(results: Sequence[Result], x: Array, state: Any) -> None:
    """Let steps of several kinds into one loop only if they return the same types."""
    described = [jax.tree.map(lambda one: (one.shape, one.dtype), result) for result in results]
    wanted = jax.tree.map(lambda one: (jnp.shape(one), jnp.result_type(one)), (x, state))
    if any(one != described[0] or (one.x, one.state) != wanted for one in described):
        raise Uncut
