"""What a run will evaluate, known before anything runs."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from ..guidance.cost import SHAPE, Counting
from ..guidance.protocol import Guided, Rule
from .loop import segments
from .schedules import checked
from .solver import Interval, Solver


@dataclasses.dataclass(frozen=True)
class Plan:
    """Network evaluations of a trajectory, step by step.

    Attributes:
        sigmas: the schedule, ``[steps + 1]``.
        evaluations: for each step, evaluations a sample by network name.
    """

    sigmas: np.ndarray
    evaluations: list[dict[str, int]]

    @property
    def totals(self) -> dict[str, int]:
        """Evaluations a sample over the whole trajectory, by network name."""
        totals: Counter[str] = Counter()
        for step in self.evaluations:
            totals.update(step)
        return dict(totals)

    def macs(self, macs: dict[str, int]) -> int:
        """Multiply-adds a sample, given those of one evaluation of each network."""
        return sum(count * macs[name] for name, count in self.totals.items())

    def __str__(self) -> str:
        def shown(counts):
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"

        lines = ["step      sigma  ->  sigma'    evaluations"]
        for i, counts in enumerate(self.evaluations):
            span = f"{self.sigmas[i]:10.4f}  {self.sigmas[i + 1]:10.4f}"
            lines.append(f"{i:4d} {span}    {shown(counts)}")
        return "\n".join([*lines, f"total: {shown(self.totals)}"])


def plan(solver: Solver, sigmas: np.ndarray, rule: Rule, shape: tuple[int, ...] = SHAPE) -> Plan:
    """Count what `sample` will evaluate, by tracing each kind of step with a counting denoiser.

    Args:
        solver, sigmas, rule: as `sample` takes them.
        shape: one sample's shape; matters for rules that cut windows alone.

    Raises:
        ValueError: unusable sigmas.
    """
    sigmas = checked(sigmas)
    tables = solver.tables(sigmas)
    batch = getattr(solver, "particles", None) or 2
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.arange(batch))
    result: list[dict[str, int]] = []
    for segment in segments(rule, solver, sigmas):
        counts: Counter[str] = Counter()

        def trace(holds, x, table, segment=segment, counts=counts):
            def denoise(x, sigma) -> Guided:
                evaluate = Counting(x)
                guided = holds.apply(evaluate, x, sigma, rule.init(x), keys)[0]
                counts.update(evaluate.counts)
                return guided

            interval = Interval(jnp.float32(2.0), jnp.float32(1.0), table)
            return segment.solver.step(denoise, x, interval, solver.init(x), keys)[0]

        first = jax.tree.map(lambda table: jnp.asarray(table)[len(result)], tables)  # noqa: B023
        jax.eval_shape(trace, segment.rule, x, first)
        result += [dict(counts)] * segment.steps
    return Plan(sigmas, result)
