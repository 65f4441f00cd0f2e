"""What a run will evaluate, known before anything runs."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ..core.calls import takes_parts
from ..guidance.evaluations import SHAPE, Counting, counts_text
from ..guidance.gradients import GRADIENT, REWARD, pull
from ..guidance.protocol import Guided, Rule
from .checks import Levels, checked
from .loop import segments
from .particles.groups import reindex
from .solvers.solver import Interval, Solver

# A backward pass through a network, in forward passes: a product for the gradient of each of the
# two factors that a forward pass multiplies once.
BACKWARD = 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """Network evaluations and multiply-adds of a trajectory, step by step.

    Attributes:
        sigmas: the schedule, ``[steps + 1]``.
        evaluations: for each step, evaluations a sample by network name.
        network_macs: multiply-adds of one evaluation by network name; None when not known.
        particles: samples that weigh against each other for one draw, each of this cost.
    """

    sigmas: np.ndarray
    evaluations: list[dict[str, int]]
    network_macs: Mapping[str, int] | None = None
    particles: int = 1

    @property
    def totals(self) -> dict[str, int]:
        """Evaluations a sample over the whole trajectory, by network name."""
        totals: Counter[str] = Counter()
        for step in self.evaluations:
            totals.update(step)
        return dict(totals)

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks that are evaluated, in order."""
        names = {name.removesuffix(GRADIENT) for name in self.totals}
        return tuple(sorted(names - {REWARD}))

    @property
    def macs(self) -> int:
        """Multiply-adds a sample over the whole trajectory; of rewards, where they are given.

        Raises:
            ValueError: those of a network that is evaluated are not known.
        """
        return sum(self._macs(step) for step in self.evaluations)

    def _macs(self, counts: Mapping[str, int]) -> int:
        known = dict(self.network_macs or {})
        known |= {name + GRADIENT: BACKWARD * count for name, count in known.items()}
        rewards = {REWARD, REWARD + GRADIENT} - known.keys()
        counts = {name: count for name, count in counts.items() if name not in rewards}
        if missing := sorted(counts.keys() - known.keys()):
            raise ValueError(
                f"samplers.plan: the multiply-adds of the network {missing[0]!r} are not known: "
                f"pass macs={{{missing[0]!r}: models.macs(network)}}"
            )
        return sum(count * known[name] for name, count in counts.items())

    def __str__(self) -> str:
        def shown(counts):
            evaluated = counts_text(counts) or "none"
            if self.network_macs is None:
                return evaluated
            return f"{evaluated:<24} {self._macs(counts) / 1e9:12.3f}"

        unit = "" if self.network_macs is None else f"{'':<13} 1e9 multiply-adds"
        lines = ["step      sigma  ->  sigma'    evaluations" + unit]
        for i, counts in enumerate(self.evaluations):
            span = f"{self.sigmas[i]:10.4f}  {self.sigmas[i + 1]:10.4f}"
            lines.append(f"{i:4d} {span}    {shown(counts)}")
        lines.append(f"{'total':<30} {shown(self.totals)}")
        if self.particles > 1:
            lines.append(f"{'for each particle of a group of':<30} {self.particles}")
        return "\n".join(lines)


@takes_parts("samplers")
def plan(
    solver: Solver,
    sigmas: Levels,
    rule: Rule,
    shape: tuple[int, ...] = SHAPE,
    *,
    macs: Mapping[str, int] | None = None,
) -> Plan:
    """Count what `sample` will evaluate, by tracing each kind of step with a counting denoiser.

    Args:
        solver, sigmas, rule: as `sample` takes them.
        shape: one sample's shape; matters for rules that cut windows alone.
        macs: multiply-adds of one evaluation by network name (`guidestar.core.macs`).

    Raises:
        ValueError: unusable sigmas.
    """
    sigmas = checked(sigmas)
    tables = solver.tables(sigmas)
    particles = getattr(solver, "particles", None)
    batch = particles or 2
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.arange(batch))
    result: list[dict[str, int]] = []
    for segment in segments(rule, solver, sigmas):
        counts: Counter[str] = Counter()

        def trace(holds, x, table, segment=segment, counts=counts):
            denoise = _Counted(holds, rule.init(x), keys, counts)
            interval = Interval(jnp.float32(2.0), jnp.float32(1.0), table)
            return segment.solver.step(denoise, x, interval, solver.init(x), keys)[0]

        first = jax.tree.map(lambda table: jnp.asarray(table)[len(result)], tables)
        jax.eval_shape(trace, segment.rule, x, first)
        for step in range(len(result), len(result) + segment.steps):
            rewards = solver.beside(step, sigmas) if hasattr(solver, "beside") else {}
            result.append(dict(counts + Counter(rewards)))
    return Plan(sigmas, result, macs, particles or 1)


class _Counted:
    """A guided denoiser (see `solver.Denoise`) that counts the branches it would evaluate."""

    def __init__(self, rule, state, keys, counts: Counter[str]):
        self._rule, self._state, self._keys, self._counts = rule, state, keys, counts
        self.end = None
        self.condition = jnp.zeros(len(keys), jnp.int32)
        self.remembers = bool(jax.tree.leaves(state))

    def __call__(self, x, sigma, to=None, *, scale=None) -> Guided:
        del to, scale
        evaluate = Counting(x)
        guided, _ = self._rule.apply(evaluate, x, sigma, self._state, self._keys)
        self._counts.update(evaluate.counts)
        return guided

    def pull(self, x, sigma):
        evaluate = Counting(x)
        guided, _, back = pull(evaluate, self._rule, x, sigma, self._state, self._keys)
        self._counts.update(evaluate.counts)
        return guided, back

    def several(self, xs, sigma):
        guided = self.scan(lambda denoise, carry, x: (carry, denoise(x, sigma)), (), xs)[1]
        return guided, lambda chosen: None

    def reindex(self, carry, ancestors):
        return reindex(carry, ancestors)

    def scan(self, body, carry, xs):
        # Every row asks for the same: one is traced, however many there are.
        rows, before = len(jax.tree.leaves(xs)[0]), Counter(self._counts)
        carry, y = body(self, carry, jax.tree.map(lambda x: x[0], xs))
        for name, count in (self._counts - before).items():
            self._counts[name] += (rows - 1) * count
        return carry, jax.tree.map(lambda y: jnp.broadcast_to(y, (rows, *y.shape)), y)
