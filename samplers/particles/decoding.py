"""Value-based decoding: every sample chooses among candidates for its next state (2408.08252)."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree, replaced, static
from ...core.random import fold_each
from ...core.registry import register
from ...core.rewards import Reward
from ...guidance.gradients import REWARD
from ..solvers.ancestral import ancestral
from ..solvers.solver import Common, Interval, Kernel, Solver
from .groups import select
from .moving import CHOOSING, REWARDING, checked_kernel, is_last, require_clean_end
from .values import Tilt, tilt

# Candidate n > 0 draws from this stream of a step's key, and n after it; the first from the key
# itself, as the kernel alone would.
CANDIDATES = 4


class Table(NamedTuple):
    """A step's constants: the kernel's own, and whether candidates are chosen from, 1 or 0."""

    own: Any
    chooses: Float[Array | np.ndarray, " *steps"]


@pytree
class Decoding(Common):
    """A kernel that draws candidates, of which each sample keeps one by its value.

    The choice among candidates is made when a step begins, by predictions at its noise level and by
    its rule; that of the one chosen is the step's own.

    Attributes:
        tilt: values of candidates.
        kernel: draws candidates.
        candidates: a sample.
        greedy: whether the best is kept, and not a draw by weight.
        block: how many steps candidates go on alone.
        begins, ends: whether the step at hand is the first, or the last; see `at`.
    """

    order: ClassVar[int] = 1
    tilt: Tilt
    kernel: Kernel
    candidates: int = static()
    greedy: bool = static()
    block: int = static()
    begins: bool = static(default=False)
    ends: bool = static(default=False)

    @property
    def renoises(self) -> bool:  # type: ignore[override]
        """Whether the kernel says what it does with another noise direction."""
        return self.kernel.renoises

    def tables(self, sigmas):
        """Return each step's `Table`.

        Raises:
            ValueError: a schedule that does not end in 0.
        """
        require_clean_end("svdd", sigmas)
        return Table(self.kernel.tables(sigmas), self._chooses(sigmas).astype(np.float64))

    def _chooses(self, sigmas):
        steps = np.arange(len(sigmas) - 1)
        return (steps > 0) & ((steps % self.block == 0) | (steps == steps[-1]))

    def beside(self, step, sigmas):
        """Return the rewards of a step: one a candidate, where it chooses."""
        chooses = self.candidates > 1 and self._chooses(sigmas)[step]
        return {REWARD: self.candidates * self.tilt.rewards} if chooses else {}

    def at(self, step, sigmas):
        """Return the solver of a step: the first has no candidates, and the last draws none."""
        return replaced(self, begins=step == 0, ends=is_last(step, sigmas))

    def init(self, x):
        """Return the candidates, ``[candidate, batch, ...]``."""
        return jnp.zeros((self.candidates, *x.shape), x.dtype)

    def step(self, denoise, x, interval, state, key):
        table = interval.table
        once = Interval(interval.start, interval.end, table.own)
        if self.begins:
            guided = denoise(x, interval.start)
            parents = (jnp.broadcast_to(x, state.shape), self._each(guided))
        else:
            if self.block > 1 and denoise.remembers:
                raise ValueError(
                    f"samplers.svdd: candidates go on alone for block={self.block} steps, and a "
                    f"rule that remembers would need a memory for each: take block=1, or a rule "
                    f"without momentum"
                )
            every, keep = denoise.several(state, interval.start)
            chosen = self._chosen(denoise, state, interval, every, key)
            keep(chosen)
            x, guided = select((state, every), chosen)
            chooses = (table.chooses > 0) | (self.candidates == 1)
            parents = jax.tree.map(
                lambda one, own: jnp.where(chooses, one, own),
                (jnp.broadcast_to(x, state.shape), self._each(guided)),
                (state, every),
            )
        if self.ends:
            return self.kernel.move(x, guided, once, key), guided, state

        def child(_, row):
            number, (at, prediction) = row
            own = jax.lax.cond(
                number == 0, lambda: key, lambda: fold_each(key, CANDIDATES + number)
            )
            return None, self.kernel.move(at, prediction, once, own)

        _, state = jax.lax.scan(child, None, (jnp.arange(self.candidates), parents))
        return state[0], guided, state

    def _each(self, guided):
        return jax.tree.map(
            lambda value: jnp.broadcast_to(value, (self.candidates, *value.shape)), guided
        )

    def _chosen(self, denoise, candidates, interval, guided, key):
        """Return which candidate each sample keeps; the first where none is chosen yet."""
        batch = candidates.shape[1]
        if self.candidates == 1:
            return jnp.zeros(batch, jnp.int32)

        def choose():
            rewarding = fold_each(key, REWARDING)

            def value(_, row):
                number, at, denoised = row
                own = fold_each(rewarding, number)
                tilts = self.tilt.ahead(at, interval.start, denoised, denoise.condition, own)
                return None, tilts

            rows = (jnp.arange(self.candidates), candidates, guided.denoised)
            _, tilts = jax.lax.scan(value, None, rows)
            if self.greedy:
                return jnp.argmax(tilts, axis=0).astype(jnp.int32)
            choosing = fold_each(key, CHOOSING)
            drawn = jax.vmap(jax.random.categorical)(choosing, tilts.T)
            return drawn.astype(jnp.int32)

        none = jnp.zeros(batch, jnp.int32)
        return jax.lax.cond(interval.table.chooses > 0, choose, lambda: none)


@register("solver")
def svdd(
    reward: Reward,
    scale: float | Array | None = 1.0,
    candidates: int = 4,
    kernel: Solver = ancestral(),  # noqa: B008  (immutable)
    *,
    value: str | Callable = "mean",
    draws: int | None = None,
    variance: float | None = None,
    block: int = 1,
) -> Decoding:
    """Return SVDD: every step draws candidates, and each sample keeps one by its value.

    A candidate is kept with a probability proportional to ``exp(scale V)``, V as in `steer`.
    Samples do not depend on each other, and gradients are not asked for. A step costs as many
    evaluations as there are candidates, one after another, the first and what goes to 0 less.

    With the exact V and many candidates it draws from ``p(x0) exp(scale r(x0))``; with few it
    falls short of it. With the reward of the prediction for V it stays biased, in general beyond
    the target, since the errors of V add up over steps; `steer` does not. Taking the best
    (``scale=None``, what the paper's image code does) is no sampling: it leaves the data.

    ``save="x"`` keeps the first candidate where a step begins, and not the one that is chosen.

    Args:
        reward: of clean samples.
        scale: inverse temperature, the paper's 1/alpha; 0 is the kernel alone; None takes the
            best.
        candidates: of each sample; 1 is the kernel alone.
        kernel: `ancestral` or `euler_maruyama`, with noise.
        value, draws, variance: as in `steer`.
        block: steps that candidates go on alone before one is chosen (CoDe); more than 1 for rules
            without memory.

    Raises:
        ValueError: a kernel that adds no noise or evaluates more than once, unknown names, or
            numbers out of range; when sampling, a schedule that does not end in 0, or a block
            with a rule that remembers.

    Source: Li et al., arXiv 2408.08252, algorithm 1.
    """
    for name, number in (("candidates", candidates), ("block", block)):
        if isinstance(number, bool) or number != int(number) or number < 1:
            raise ValueError(f"samplers.svdd: {name} must be a whole number from 1, got {number!r}")
    return Decoding(
        tilt("svdd", reward, 1.0 if scale is None else scale, value, draws, variance),
        checked_kernel("svdd", kernel),
        int(candidates),
        scale is None,
        int(block),
    )
