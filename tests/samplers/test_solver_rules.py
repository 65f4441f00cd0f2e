"""Every solver with every kind of rule: it runs, costs what the plan says, and mixes no samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from oracles.toy_network import Toy
from tables.everyday import rows
from tables.rule_table import EVERY
from tables.solver_table import SHAPE, SOLVERS, STEPS

from guidestar import guidance, samplers

RULES = {name: EVERY[name] for name in ("unguided", "cfg", "apg", "between(cfg)", "cfgpp")}
RULES["reuse(apg)"] = guidance.reuse(guidance.apg(2.0), 2)
COUNT = 4
SIGMAS = samplers.karras(STEPS, 0.1, 2.5)
SOLVERS_AND_RULES = [
    (solver, rule)
    for solver, entry in SOLVERS.items()
    for rule in RULES
    if rule != "cfgpp" or entry.solver.renoises
]


class Counted(Toy):
    """The toy network, counting the rows that it is asked for."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __call__(self, x, sigma, condition, modes=(), to=None):
        jax.debug.callback(self._count, x.shape[0])
        return super().__call__(x, sigma, condition, modes, to)

    def _count(self, rows):
        self.rows += int(rows)


# Each day every rule with one solver, and the one that remembers most with one of each kind.
KINDS = ("euler", "heun", "dpmpp", "ancestral", "dpmpp_2s_ancestral", "unipc")


@pytest.mark.parametrize(
    ("solver", "rule"),
    rows(SOLVERS_AND_RULES, lambda s, r: s == "euler" or ("apg" in r and s in KINDS)),
)
def test_a_solver_takes_any_rule_at_the_cost_planned_and_mixes_no_samples(solver, rule):
    entry, rule = SOLVERS[solver], RULES[rule]
    noise, labels = jax.random.normal(jax.random.key(0), (COUNT, *SHAPE)), jnp.arange(COUNT) % 2
    network = Counted()

    def run(order):
        chosen = np.array(order)
        return samplers.sample(
            network,
            rule,
            entry.solver,
            SIGMAS,
            noise[chosen],
            labels[chosen],
            keys(COUNT)[chosen],
        )

    ends = jax.block_until_ready(run([0, 1, 2, 3]))
    jax.effects_barrier()
    plan = samplers.plan(entry.solver, SIGMAS, rule, SHAPE)
    assert network.rows == COUNT * plan.totals["main"]
    assert np.isfinite(ends).all()
    assert np.std(ends, axis=0).max() > 0.05
    # The same program with other company, in other places.
    np.testing.assert_allclose(run([2, 2, 1, 0])[2:], ends[jnp.array([1, 0])], atol=1e-5)
    if rule is RULES["apg"]:
        # Alone, in a program of its own.
        np.testing.assert_allclose(run([2])[0], ends[2], atol=1e-5)
